{{- define "keen-edge.name" -}}
{{- .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "keen-edge.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "keen-edge.selectorLabels" -}}
app.kubernetes.io/name: {{ include "keen-edge.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "keen-edge.labels" -}}
{{ include "keen-edge.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The name of the cluster that adds a Keen write key: `keen` for the entry keen_write_key. */}}
{{- define "keen-edge.cluster" -}}
{{- if eq . "keen_write_key" }}keen{{ else }}keen_{{ . }}{{ end -}}
{{- end -}}

{{/*
Envoy's configuration: files/envoy.yaml, which is deploy/container/envoy.yaml, with the sources and the addresses of the
values. Each entry of the Secret that a source names gets a cluster of its own, because a cluster adds one key.
*/}}
{{- define "keen-edge.envoy" -}}
{{- $envoy := .Files.Get "files/envoy.yaml" | fromYaml -}}
{{- if not (hasKey $envoy "static_resources") -}}
{{- fail "files/envoy.yaml cannot be read" -}}
{{- end -}}
{{- $static := $envoy.static_resources -}}
{{- $listener := index $static.listeners 0 -}}
{{- $chain := index $listener.filter_chains 0 -}}
{{- $connections := (index $chain.filters 0).typed_config -}}
{{- $plugin := (index $connections.http_filters 0).typed_config.config -}}

{{- $sources := dict -}}
{{- $entries := list -}}
{{- range $key, $source := .Values.sources -}}
{{- $entry := $source.secretKey | default "keen_write_key" -}}
{{- $entries = append $entries $entry | uniq -}}
{{- $_ := set $sources $key (merge (dict "cluster" (include "keen-edge.cluster" $entry)) (omit $source "secretKey")) -}}
{{- end -}}
{{- $keen := dict "cluster" (include "keen-edge.cluster" (first $entries)) "authority" .Values.keen.host "timeoutMs" .Values.keen.timeoutMs -}}
{{- $_ := set $plugin.configuration "value" (merge (dict "keen" $keen "sources" $sources) (deepCopy .Values.filter)) -}}

{{- if .Values.listener.xffNumTrustedHops -}}
{{- $_ := set $connections "xff_num_trusted_hops" .Values.listener.xffNumTrustedHops -}}
{{- end -}}
{{- if .Values.listener.tlsSecret -}}
{{- $certificate := dict "certificate_chain" (dict "filename" "/etc/keen-edge/tls/tls.crt") "private_key" (dict "filename" "/etc/keen-edge/tls/tls.key") -}}
{{- $common := dict "alpn_protocols" (list "h2" "http/1.1") "tls_certificates" (list $certificate) -}}
{{- $tls := dict "@type" "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext" "common_tls_context" $common -}}
{{- $_ := set $chain "transport_socket" (dict "name" "envoy.transport_sockets.tls" "typed_config" $tls) -}}
{{- end -}}

{{- $clusters := list -}}
{{- $secrets := list -}}
{{- range $cluster := $static.clusters -}}
{{- if ne $cluster.name "keen" -}}
{{- $clusters = append $clusters $cluster -}}
{{- else -}}
{{- range $entry := $entries -}}
{{- $name := include "keen-edge.cluster" $entry -}}
{{- $new := deepCopy $cluster -}}
{{- $_ := set $new "name" $name -}}
{{- $_ := set $new.load_assignment "cluster_name" $name -}}
{{- $endpoint := index (index $new.load_assignment.endpoints 0).lb_endpoints 0 -}}
{{- $_ := set $endpoint.endpoint.address "socket_address" (dict "address" $.Values.keen.host "port_value" $.Values.keen.port) -}}
{{- if $.Values.keen.tls -}}
{{- $context := $new.transport_socket.typed_config -}}
{{- $_ := set $context "sni" $.Values.keen.host -}}
{{- $name := dict "san_type" "DNS" "matcher" (dict "exact" $.Values.keen.host) -}}
{{- $_ := set $context.common_tls_context.validation_context "match_typed_subject_alt_names" (list $name) -}}
{{- else -}}
{{- $_ := unset $new "transport_socket" -}}
{{- end -}}
{{- $protocol := index $new.typed_extension_protocol_options "envoy.extensions.upstreams.http.v3.HttpProtocolOptions" -}}
{{- $injector := (index $protocol.http_filters 0).typed_config -}}
{{- $_ := set $injector.credential.typed_config "credential" (dict "name" $entry) -}}
{{- $clusters = append $clusters $new -}}
{{- $file := dict "filename" (printf "/etc/keen-edge/keys/%s" $entry) -}}
{{- $secrets = append $secrets (dict "name" $entry "generic_secret" (dict "secret" $file)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $_ := set $static "clusters" (concat $clusters .Values.extraClusters) -}}
{{- $host := index $connections.route_config.virtual_hosts 0 -}}
{{- $_ := set $host "routes" (concat .Values.extraRoutes $host.routes) -}}
{{- $_ := set $static "secrets" $secrets -}}
{{- toYaml $envoy -}}
{{- end -}}
