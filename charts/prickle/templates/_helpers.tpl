{{- define "prickle.name" -}}prickle-operator{{- end -}}

{{- define "prickle.selector" -}}
app.kubernetes.io/name: prickle-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "prickle.labels" -}}
{{ include "prickle.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}
