{{/* The prefix of all names: the release's name, with the chart's unless it is part of it. */}}
{{- define "momalisa.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 24 | trimSuffix "-" -}}
{{- end }}

{{- define "momalisa.serviceAccount" -}}
{{- default (ternary (include "momalisa.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end }}

{{/* Labels that select the pods of the release. */}}
{{- define "momalisa.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "momalisa.labels" -}}
{{ include "momalisa.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | trimAll "-_." | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Name and labels of an object: list $ "name". */}}
{{- define "momalisa.metadata" -}}
name: {{ include "momalisa.fullname" (index . 0) }}-{{ index . 1 }}
labels:
  {{- include "momalisa.labels" (index . 0) | nindent 2 }}
{{- end }}

{{/* Labels that select the pods of a part: list $ "component". */}}
{{- define "momalisa.component" -}}
{{ include "momalisa.selector" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* A number or word as the text of a variable: 2e+10 is no integer to a reader of environments. */}}
{{- define "momalisa.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ printf "%.0f" . }}{{ else }}{{ toString . }}{{ end -}}
{{- end }}

{{/* The image of a part: list $ "api"; of workers without a GPU: list $ "cpuWorker". */}}
{{- define "momalisa.image" -}}
{{- $values := (index . 0).Values.image -}}
{{- $part := index . 1 -}}
{{- $image := printf "%s/%s" $values.repository (ternary $values.cpuWorker (printf "momalisa-%s" $part) (eq $part "cpuWorker")) -}}
{{- with index $values.digests $part -}}
{{ $image }}@{{ . }}
{{- else -}}
{{ $image }}:{{ $values.tag | default (index . 0).Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The website as visitors see it. */}}
{{- define "momalisa.publicUrl" -}}
{{- $tls := eq (include "momalisa.tls" .) "true" -}}
{{- if .Values.publicUrl -}}
{{ .Values.publicUrl }}
{{- else if .Values.ingress.host -}}
{{ ternary "https" "http" $tls }}://{{ .Values.ingress.host }}
{{- end -}}
{{- end }}

{{/* "true" if visitors come by HTTPS. */}}
{{- define "momalisa.tls" -}}
{{- with .Values.ingress -}}
{{- if and .tls.acmeEmail (not .tls.secretName) -}}
{{- fail "A certificate of `ingress.tls.acmeEmail` needs a place: name the Secret of the certificate in `ingress.tls.secretName`." -}}
{{- end -}}
{{- if or .tls.secretName .tls.certificate -}}
{{- if not .host -}}
{{- fail "`ingress.tls` needs `ingress.host`, the domain of the certificate." -}}
{{- end -}}
true
{{- end -}}
{{- end -}}
{{- end }}

{{/* A model, as YAML: list $ "name". */}}
{{- define "momalisa.model" -}}
{{- $values := (index . 0).Values -}}
{{- $name := index . 1 -}}
{{- if not (hasKey $values.models $name) -}}
{{- fail (printf "There is no model %q: `models` has %s." $name (keys $values.models | sortAlpha | join ", ")) -}}
{{- end -}}
{{- index $values.models $name | toYaml -}}
{{- end }}

{{/* MODEL of a model: a folder, or a name on the Hub; "" for the bundled one. */}}
{{- define "momalisa.modelSetting" -}}
{{- $model := include "momalisa.model" . | fromYaml -}}
{{- if eq $model.source "hub" -}}
{{ $model.repository }}
{{- else if ne $model.source "bundled" -}}
/models/{{ $model.folder }}
{{- end -}}
{{- end }}

{{/* The name by which walks know a model, as Settings.model_name gives it. */}}
{{- define "momalisa.modelName" -}}
{{- $model := include "momalisa.model" . | fromYaml -}}
{{- if $model.name -}}
{{ $model.name }}
{{- else if eq $model.source "bundled" -}}
momalisa-mini
{{- else if eq $model.source "hub" -}}
{{ $model.repository }}
{{- else -}}
{{ regexReplaceAll "\\.(safetensors|ckpt|pt|pth|bin)$" (base $model.folder) "" }}
{{- end -}}
{{- end }}

{{/* A pool of render workers with the defaults beneath it, as YAML: list $ "name". */}}
{{- define "momalisa.pool" -}}
{{- $render := (index . 0).Values.render -}}
{{- $pool := mergeOverwrite (deepCopy $render.defaults) (deepCopy (index $render.pools (index . 1))) -}}
{{- $_ := set $pool "model" (default (index . 0).Values.model $pool.model) -}}
{{- toYaml $pool -}}
{{- end }}

{{/* The name of a ComputeClass, which has no namespace: list $ "name". Those of the chart have the release's name. */}}
{{- define "momalisa.computeClass" -}}
{{- if hasKey (index . 0).Values.computeClasses (index . 1) -}}
{{ include "momalisa.fullname" (index . 0) }}-{{ index . 1 }}
{{- else -}}
{{ index . 1 }}
{{- end -}}
{{- end }}

{{/* A selector of the pods of some parts: list $ "component"… */}}
{{- define "momalisa.components" -}}
matchLabels:
  {{- include "momalisa.selector" (first .) | nindent 2 }}
matchExpressions:
  - {key: app.kubernetes.io/component, operator: In, values: {{ rest . | toJson }}}
{{- end }}

{{/* Peers of a network policy: namespaces and networks. */}}
{{- define "momalisa.peers" -}}
{{- with .namespaces }}
- namespaceSelector:
    matchExpressions:
      - {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson . }}}
{{- end }}
{{- range .cidrs }}
- ipBlock: {cidr: {{ . }}}
{{- end }}
{{- end }}
