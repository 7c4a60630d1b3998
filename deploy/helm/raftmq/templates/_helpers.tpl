{{- define "raftmq.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "raftmq.labels" -}}
app.kubernetes.io/name: raftmq
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "raftmq.selector" -}}
app.kubernetes.io/name: raftmq
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "raftmq.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* host:port of every name server, by the names that their pods keep. */}}
{{- define "raftmq.nameservers" -}}
{{- $name := include "raftmq.name" . -}}
{{- $addresses := list -}}
{{- range $i := until (int .Values.nameserver.replicaCount) -}}
{{- $addresses = append $addresses (printf "%s-namesrv-%d.%s-namesrv.%s.svc.%s:9876" $name $i $name $.Release.Namespace $.Values.clusterDomain) -}}
{{- end -}}
{{- join ";" $addresses -}}
{{- end }}

{{/* The members, by the names that their pods keep. */}}
{{- define "raftmq.peers" -}}
{{- $name := include "raftmq.name" . -}}
{{- $peers := list -}}
{{- range $i := until (int .Values.broker.replicaCount) -}}
{{- $peers = append $peers (printf "n%d-%s-broker-%d.%s-broker.%s.svc.%s:40911" $i $name $i $name $.Release.Namespace $.Values.clusterDomain) -}}
{{- end -}}
{{- join ";" $peers -}}
{{- end }}

{{- define "raftmq.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "raftmq.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
