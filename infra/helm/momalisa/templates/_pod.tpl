{{/* What all pods have: list $ $values. */}}
{{- define "momalisa.pod" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
serviceAccountName: {{ include "momalisa.serviceAccount" $root }}
automountServiceAccountToken: false # no pod calls Kubernetes' API, and the token would lie inside /run/secrets
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile:
    type: RuntimeDefault
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where pods go that need no GPU: their values. */}}
{{- define "momalisa.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Spreads the pods of a part over nodes and zones: list $ "component". */}}
{{- define "momalisa.spread" -}}
{{- if (index . 0).Values.topologySpread.enabled }}
{{- $selector := include "momalisa.component" . }}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- $selector | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- end }}

{{/* The confinement of every container. */}}
{{- define "momalisa.confined" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* Variables besides the settings: those of the credentials file, and of the part: list $ $values. */}}
{{- define "momalisa.env" -}}
{{- with (index . 0).Values.bucket.credentialsKey }}
- {name: GOOGLE_APPLICATION_CREDENTIALS, value: /run/secrets/{{ . }}}
{{- end }}
{{- range $name, $value := (index . 1).env }}
- {name: {{ $name }}, value: {{ include "momalisa.text" $value | quote }}}
{{- end }}
{{- end }}

{{/* The volume of secrets: files that the settings read, named like them. */}}
{{- define "momalisa.secretVolume" -}}
- name: secrets
{{- if eq .Values.secrets.provider "gke" }}
  csi:
    driver: secrets-store-gke.csi.k8s.io
    readOnly: true
    volumeAttributes:
      secretProviderClass: {{ include "momalisa.fullname" . }}
{{- else }}
  projected:
    sources:
      - secret:
          name: {{ .Values.secrets.name }}
          items:
            {{- range list "database_url" "broker_url" "secret_keys" }}
            - {key: {{ . }}, path: {{ . }}}
            {{- end }}
            {{- with .Values.bucket.credentialsKey }}
            - {key: {{ . }}, path: {{ . }}}
            {{- end }}
      - secret:
          name: {{ .Values.secrets.name }}
          optional: true
          items:
            - {key: webhook_secret, path: webhook_secret}
{{- end }}
{{- end }}

{{/* Probes of a part without HTTP of its own, on the port of its metrics. */}}
{{- define "momalisa.metricsProbes" -}}
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 10
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{/* Changed settings are a rolling update. */}}
{{- define "momalisa.checksum" -}}
checksum/settings: {{ include (print $.Template.BasePath "/settings.yaml") . | sha256sum }}
{{- end }}

{{/* The volume of a model's weights, to be read: list $ "name". Nothing is downloaded from a hub. */}}
{{- define "momalisa.weightsVolume" -}}
{{- $model := include "momalisa.model" . | fromYaml -}}
- name: weights
{{- if eq $model.source "claim" }}
  persistentVolumeClaim: {claimName: {{ $model.claim }}, readOnly: true}
{{- else if $model.profile }}
  persistentVolumeClaim:
    claimName: {{ include "momalisa.fullname" (index . 0) }}-{{ index . 1 | lower | replace "_" "-" | replace "." "-" }}
    readOnly: true
{{- else }}
  csi:
    driver: gcsfuse.csi.storage.gke.io
    readOnly: true
    volumeAttributes:
      bucketName: {{ $model.bucket }}
      mountOptions: implicit-dirs
{{- end }}
{{- end }}
