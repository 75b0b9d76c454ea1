{{- /* Variables of MLflow's containers. */ -}}
{{- define "ceteris.mlflowEnv" -}}
- name: HOME
  value: /tmp
- name: MLFLOW_BACKEND_STORE_URI
  {{- if .Values.mlflow.database.existingSecret }}
  valueFrom:
    secretKeyRef:
      name: {{ .Values.mlflow.database.existingSecret }}
      key: {{ .Values.mlflow.database.key }}
  {{- else }}
  value: sqlite:////var/lib/mlflow/mlflow.db
  {{- end }}
{{- if .Values.mlflow.auth.enabled }}
- name: MLFLOW_AUTH_CONFIG_PATH
  value: /etc/mlflow/basic_auth.ini
{{- end }}
- name: MLFLOW_SERVER_ENABLE_JOB_EXECUTION
  value: "false"
- name: MLFLOW_DISABLE_TELEMETRY
  value: "true"
{{- if .Values.mlflow.artifacts.destination }}
- name: AWS_REQUEST_CHECKSUM_CALCULATION
  value: when_required
- name: AWS_RESPONSE_CHECKSUM_VALIDATION
  value: when_required
{{- with .Values.storage.endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ . }}
{{- end }}
{{- with .Values.storage.region }}
- name: AWS_DEFAULT_REGION
  value: {{ . }}
{{- end }}
{{- with .Values.storage.existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: AWS_ACCESS_KEY_ID
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: AWS_SECRET_ACCESS_KEY
- name: AWS_SESSION_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: AWS_SESSION_TOKEN
      optional: true
{{- end }}
{{- end }}
{{- end -}}

{{- define "ceteris.mlflowMounts" -}}
{{ include "ceteris.scratchMount" . }}
{{- if .Values.mlflow.auth.enabled }}
- name: auth
  mountPath: /etc/mlflow
{{- end }}
{{- if include "ceteris.mlflowHasVolume" . }}
- name: data
  mountPath: /var/lib/mlflow
{{- end }}
{{- end -}}

{{- /* The Host headers that MLflow answers to: the Service's names with and without the port, and forwarded ports. */ -}}
{{- define "ceteris.mlflowHosts" -}}
{{- $service := printf "%s-mlflow" (include "ceteris.fullname" .) -}}
{{- $hosts := list -}}
{{- range list "" (printf ".%s" .Release.Namespace) (printf ".%s.svc" .Release.Namespace) (printf ".%s.svc.*" .Release.Namespace) -}}
{{- $hosts = concat $hosts (list (printf "%s%s" $service .) (printf "%s%s:*" $service .)) -}}
{{- end -}}
{{- $hosts = concat $hosts (list "localhost" "localhost:*" "127.0.0.1:*") .Values.mlflow.allowedHosts -}}
{{- join "," $hosts -}}
{{- end -}}
