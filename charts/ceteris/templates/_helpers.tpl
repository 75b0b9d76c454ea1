{{- define "ceteris.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 36 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* By what a component's pods are found: a dict with root and component. */ -}}
{{- define "ceteris.selector" -}}
app.kubernetes.io/name: ceteris
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- /* Labels of every object: a dict with root and component. */ -}}
{{- define "ceteris.labels" -}}
{{ include "ceteris.selector" . }}
app.kubernetes.io/part-of: ceteris
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Labels of a pod: those of every object, and no sidecar, which would outlive a job's own container. */ -}}
{{- define "ceteris.podLabels" -}}
{{ include "ceteris.labels" . }}
sidecar.istio.io/inject: "false"
{{- with .root.Values.pods.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "ceteris.podAnnotations" -}}
{{- with .Values.pods.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* The namespaces of the runs, as a JSON list. */ -}}
{{- define "ceteris.runNamespaces" -}}
{{- .Values.runNamespaces | default (list .Release.Namespace) | toJson -}}
{{- end -}}

{{- /* The namespaces of the runs and the release's, as a JSON list. */ -}}
{{- define "ceteris.allNamespaces" -}}
{{- append .Values.runNamespaces .Release.Namespace | uniq | toJson -}}
{{- end -}}

{{- /* A namespace in at most 12 characters, different for each. */ -}}
{{- define "ceteris.short" -}}
{{- if gt (len .) 12 }}{{ . | trunc 6 | trimSuffix "-" }}-{{ . | sha256sum | trunc 5 }}{{ else }}{{ . }}{{ end -}}
{{- end -}}

{{- /* An image: a dict with root and set. */ -}}
{{- define "ceteris.image" -}}
{{- $image := get .root.Values.images .set -}}
{{- $tag := default .root.Chart.AppVersion $image.tag -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $tag }}{{ end -}}
{{- end -}}

{{- /* The command line's options that name the images. */ -}}
{{- define "ceteris.imageArguments" -}}
{{- range $set := list "cpu" "launcher" "train" "vlm" }}
- --image={{ $set }}={{ include "ceteris.image" (dict "root" $ "set" $set) }}
{{- end }}
{{- end -}}

{{- define "ceteris.kubeflowHost" -}}
{{- default (printf "http://ml-pipeline.%s.svc:8888" .Values.kubeflow.namespace) .Values.kubeflow.host -}}
{{- end -}}

{{- define "ceteris.mlflowUri" -}}
{{- if .Values.mlflow.enabled -}}
{{- printf "http://%s-mlflow.%s.svc:%d" (include "ceteris.fullname" .) .Release.Namespace (int .Values.mlflow.service.port) -}}
{{- else -}}
{{- .Values.mlflow.externalUri -}}
{{- end -}}
{{- end -}}

{{- /* The port of an address, as text; empty for an empty one. */ -}}
{{- define "ceteris.port" -}}
{{- if . -}}
{{- $url := urlParse . -}}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) -}}
{{- default (ternary "443" "80" (eq $url.scheme "https")) $port -}}
{{- end -}}
{{- end -}}

{{- /* One node pool as the pools' file has it: what is given, and what the chart knows. A dict with root and pool. */ -}}
{{- define "ceteris.pool" -}}
{{- $values := .root.Values -}}
{{- $secrets := list $values.storage.existingSecret $values.mlflow.clientSecret $values.huggingFace.existingSecret -}}
{{- $known := dict -}}
{{- $_ := set $known "envFromSecrets" (concat (compact $secrets) (default list .pool.envFromSecrets) | uniq) -}}
{{- $addresses := printf "%s-addresses" (include "ceteris.fullname" .root) -}}
{{- $_ := set $known "envFromConfigMaps" (prepend (default list .pool.envFromConfigMaps) $addresses | uniq) -}}
{{- $_ := set $known "imagePullSecrets" (concat $values.image.pullSecrets (default list .pool.imagePullSecrets) | uniq) -}}
{{- $gang := printf "%s-gang" (include "ceteris.fullname" .root) -}}
{{- $_ := set $known "serviceAccount" (default $gang .pool.serviceAccount) -}}
{{- mergeOverwrite (deepCopy .pool) $known | toYaml -}}
{{- end -}}

{{- /* What the spec of each of the chart's pods begins with: a dict with root and token. */ -}}
{{- define "ceteris.podSpec" -}}
automountServiceAccountToken: {{ .token }}
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- if not .root.Values.openshift.enabled }}
  runAsUser: {{ int64 .root.Values.pods.runAsUser }}
  runAsGroup: 0
  fsGroup: {{ int64 .root.Values.pods.fsGroup }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with .root.Values.pods.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.pods.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* What each of the chart's containers has in common. */ -}}
{{- define "ceteris.container" -}}
image: {{ include "ceteris.image" (dict "root" . "set" "launcher") }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
  readOnlyRootFilesystem: true
terminationMessagePolicy: FallbackToLogsOnError
{{- end -}}

{{- define "ceteris.scratchMount" -}}
- name: scratch
  mountPath: /tmp
{{- end -}}

{{- define "ceteris.scratchVolume" -}}
- name: scratch
  emptyDir:
    sizeLimit: 256Mi
{{- end -}}

{{- /* Variables of the chart's jobs that ask Kubeflow Pipelines. */ -}}
{{- define "ceteris.kubeflowEnv" -}}
- name: HOME
  value: /tmp
- name: KF_PIPELINES_ENDPOINT
  value: {{ include "ceteris.kubeflowHost" . }}
{{- if .Values.kubeflow.multiUser }}
- name: KF_PIPELINES_SA_TOKEN_PATH
  value: /var/run/secrets/kubeflow/pipelines/token
{{- end }}
{{- end -}}

{{- define "ceteris.kubeflowMounts" -}}
- name: pools
  mountPath: /etc/ceteris
  readOnly: true
{{- if .Values.kubeflow.multiUser }}
- name: kubeflow-token
  mountPath: /var/run/secrets/kubeflow/pipelines
  readOnly: true
{{- end }}
{{- end -}}

{{- define "ceteris.kubeflowVolumes" -}}
- name: pools
  configMap:
    name: {{ include "ceteris.fullname" . }}-pools
{{- if .Values.kubeflow.multiUser }}
- name: kubeflow-token
  projected:
    sources:
      - serviceAccountToken:
          audience: pipelines.kubeflow.org
          expirationSeconds: 7200
          path: token
{{- end }}
{{- end -}}

{{- /* Where the chart's own MLflow keeps its database and files: whether it has a volume. */ -}}
{{- define "ceteris.mlflowHasVolume" -}}
{{- if or (not .Values.mlflow.database.existingSecret) (not .Values.mlflow.artifacts.destination) -}}true{{- end -}}
{{- end -}}

{{- define "ceteris.mlflowClaim" -}}
{{- default (printf "%s-mlflow" (include "ceteris.fullname" .)) .Values.mlflow.persistence.existingClaim -}}
{{- end -}}
