{{/* The name of everything: the release's, with the chart's unless that is in it. */}}
{{- define "galley.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "galley.selector" -}}
app.kubernetes.io/name: galley
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "galley.labels" -}}
{{ include "galley.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "galley.stream.name" -}}
{{ include "galley.name" . }}-stream
{{- end -}}

{{/* Other labels than the server's, whose Service and budget would take workers for replicas. */}}
{{- define "galley.stream.selector" -}}
app.kubernetes.io/name: galley-stream
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "galley.stream.labels" -}}
{{ include "galley.stream.selector" . }}
{{ include "galley.labels" . | trimPrefix (include "galley.selector" .) | trim }}
{{- end -}}

{{- define "galley.stream.consumer" -}}
{{ .Values.stream.nats.consumer | default (printf "galley-%s" .Values.stream.recipe) }}
{{- end -}}

{{/* An address with its password stays out of arguments, which whoever may list processes sees. */}}
{{- define "galley.stream.url" -}}
{{- $secret := required "stream.urlSecret: expected the name of a Secret with `from` and `to`" .root.Values.stream.urlSecret -}}
- name: GALLEY_STREAM_{{ upper .key }}
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ .key }}}}
{{- end -}}

{{/* What every pod of ours has. */}}
{{- define "galley.pod" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{ end -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "galley.container" -}}
{{- $tag := .Values.image.tag | default (ternary "cuda" "cpu" .Values.cuda.enabled) -}}
image: "{{ .Values.image.repository }}:{{ $tag }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{ include "galley.rights" . }}
{{- end -}}

{{- define "galley.rights" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Resources as a value has them, with the cards. */}}
{{- define "galley.resources" -}}
{{- $resources := deepCopy .resources }}
{{- if .root.Values.cuda.enabled }}
{{- $cards := dict "limits" (dict "nvidia.com/gpu" .root.Values.cuda.count) }}
{{- $resources = mergeOverwrite $resources $cards }}
{{- end }}
{{- toYaml $resources }}
{{- end -}}

{{- define "galley.device" -}}
- name: GALLEY_DEVICE
  value: "{{ range $i := until (int .Values.cuda.count) }}{{ if $i }},{{ end }}cuda:{{ $i }}{{ end }}"
{{- end -}}

{{- define "galley.written" -}}
- name: cache
  {{- if .Values.cache.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.cache.existingClaim }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ .Values.cache.sizeLimit }}}
  {{- end }}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- end -}}

{{/* Where pods go: apart from those of the same selector, and where the values say. */}}
{{- define "galley.placement" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- .selector | nindent 8 }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
