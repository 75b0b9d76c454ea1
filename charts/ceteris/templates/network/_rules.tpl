{{- define "ceteris.dnsRule" -}}
- to:
    - namespaceSelector: {}
    - ipBlock:
        cidr: 169.254.0.0/16
        except: [169.254.169.254/32]
  ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - {protocol: UDP, port: {{ . }}}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end -}}

{{- /* To the bucket, wherever it is; in the cluster it is reached by its Service's port and its pods' one alike. */ -}}
{{- define "ceteris.storageRule" -}}
{{- $policy := .Values.networkPolicy -}}
{{- $ports := $policy.storagePorts -}}
{{- range list .Values.storage.endpoint .Values.huggingFace.endpoint .Values.mlflow.externalUri -}}
{{- with include "ceteris.port" . -}}{{- $ports = append $ports (int .) -}}{{- end -}}
{{- end -}}
- to:
    {{- range $cidr := $policy.storageCidrs }}
    - ipBlock:
        cidr: {{ $cidr }}
        {{- with $policy.exceptCidrs }}
        {{- if has $cidr (list "0.0.0.0/0") }}
        except: {{ toJson . }}
        {{- end }}
        {{- end }}
    {{- end }}
    - namespaceSelector: {}
  ports:
    {{- range $ports | uniq }}
    - {protocol: TCP, port: {{ int . }}}
    {{- end }}
{{- end -}}

{{- /* To the chart's own MLflow. */ -}}
{{- define "ceteris.mlflowRule" -}}
{{- if .Values.mlflow.enabled -}}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .Release.Namespace }}
      podSelector:
        matchLabels:
          {{- include "ceteris.selector" (dict "root" . "component" "tracking") | nindent 10 }}
  ports:
    - {protocol: TCP, port: {{ .Values.mlflow.service.port }}}
{{- end -}}
{{- end -}}
