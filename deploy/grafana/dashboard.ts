// Prints the Grafana dashboard of keen-edge as JSON: `npm ci && npm run build`. scripts/grafana.sh does both.
//
// tests/observability runs each query in a real Prometheus, and expects a series with the labels of the legend.

import {
  BigValueColorMode,
  BigValueGraphMode,
  BigValueJustifyMode,
  BigValueTextMode,
  DashboardCursorSync,
  GraphDrawStyle,
  LegendDisplayMode,
  MappingType,
  PercentChangeColorMode,
  SortOrder,
  StackingMode,
  ThresholdsMode,
  TooltipDisplayMode,
  VariableHide,
  VariableRefresh,
  VariableSort,
  VisibilityMode,
  VizOrientation,
  defaultDashboard,
  type Dashboard,
  type DataQuery,
  type DataSourceRef,
  type GraphFieldConfig,
  type OptionsWithTooltip,
  type OptionsWithLegend,
  type Panel,
  type RowPanel,
  type SingleStatBaseOptions,
  type Threshold,
  type ValueMapping,
} from "@grafana/schema";

declare const console: { log(text: string): void };

/** A query as Grafana's Prometheus data source stores it. The schema has no type for it. */
interface PromQuery extends DataQuery {
  datasource: DataSourceRef;
  expr: string;
  legendFormat: string;
  instant: boolean;
  range: boolean;
}

interface StatOptions extends SingleStatBaseOptions {
  colorMode: BigValueColorMode;
  graphMode: BigValueGraphMode;
  justifyMode: BigValueJustifyMode;
  percentChangeColorMode: PercentChangeColorMode;
  showPercentChange: boolean;
  textMode: BigValueTextMode;
  wideLayout: boolean;
}

/** What all panels share. `queries`: legend and expression. */
interface Content {
  title: string;
  description: string;
  unit: string;
  queries: [legend: string, expr: string][];
  thresholds?: Threshold[];
  mappings?: ValueMapping[];
  /** Of 24 columns. */
  width?: number;
}

const prometheus: DataSourceRef = { type: "prometheus", uid: "${datasource}" };

/** The selected instances. */
const own = 'instance=~"$instance"';

/** A metric of the selected instances. */
const metric = (name: string, labels = ""): string =>
  `${name}{${own}${labels === "" ? "" : `, ${labels}`}}`;

/** Per second, over the resolution of the panel. */
const rate = (name: string, labels = ""): string => `rate(${metric(name, labels)}[$__rate_interval])`;

/** In the selected time range. */
const total = (name: string, labels = ""): string => `increase(${metric(name, labels)}[$__range])`;

const sum = (expr: string, ...by: string[]): string =>
  by.length === 0 ? `sum(${expr})` : `sum by (${by.join(", ")}) (${expr})`;

const quantile = (q: number, name: string, labels = ""): string =>
  `histogram_quantile(${q}, ${sum(rate(`${name}_bucket`, labels), "le")})`;

const quantiles = (name: string, labels = ""): [string, string][] =>
  [0.5, 0.9, 0.99].map((q) => [`p${q * 100}`, quantile(q, name, labels)]);

const alwaysGreen: Threshold[] = [{ value: null, color: "green" }];
/** Green at 0, red above. */
const redAboveZero: Threshold[] = [
  { value: null, color: "green" },
  { value: 0.000001, color: "red" },
];
const redBelowOne: Threshold[] = [
  { value: null, color: "red" },
  { value: 1, color: "green" },
];
const upOrDown: ValueMapping[] = [
  {
    type: MappingType.ValueToText,
    options: { "0": { text: "down", color: "red", index: 0 }, "1": { text: "up", color: "green", index: 1 } },
  },
];

const targets = (content: Content, instant: boolean): PromQuery[] =>
  content.queries.map(([legendFormat, expr], index) => ({
    refId: String.fromCharCode("A".charCodeAt(0) + index),
    datasource: prometheus,
    expr,
    legendFormat,
    instant,
    range: !instant,
  }));

/** A panel without its place: `arrange` gives it one. */
const panel = (type: string, content: Content, rest: Partial<Panel>, instant: boolean): Panel => ({
  type,
  title: content.title,
  description: content.description,
  datasource: prometheus,
  targets: targets(content, instant).map((target) => ({ ...target })),
  gridPos: { x: 0, y: 0, w: content.width ?? 8, h: 8 },
  ...rest,
});

const defaults = (content: Content) => ({
  unit: content.unit,
  ...(content.mappings === undefined ? {} : { mappings: content.mappings }),
  thresholds: { mode: ThresholdsMode.Absolute, steps: content.thresholds ?? alwaysGreen },
});

const graph = (content: Content, stacked = false): Panel => {
  const custom: GraphFieldConfig = {
    drawStyle: GraphDrawStyle.Line,
    fillOpacity: stacked ? 30 : 10,
    lineWidth: 1,
    showPoints: VisibilityMode.Never,
    stacking: { mode: stacked ? StackingMode.Normal : StackingMode.None, group: "A" },
  };
  const options: OptionsWithLegend & OptionsWithTooltip = {
    legend: { displayMode: LegendDisplayMode.List, placement: "bottom", showLegend: true, calcs: [] },
    tooltip: { mode: TooltipDisplayMode.Multi, sort: SortOrder.Descending },
  };
  return panel(
    "timeseries",
    content,
    { fieldConfig: { defaults: { ...defaults(content), min: 0, custom: { ...custom } }, overrides: [] }, options: { ...options } },
    false,
  );
};

const stat = (content: Content): Panel => {
  const options: StatOptions = {
    reduceOptions: { calcs: ["lastNotNull"], fields: "", values: false },
    orientation: VizOrientation.Auto,
    textMode: content.queries.some(([legend]) => legend !== "") ? BigValueTextMode.ValueAndName : BigValueTextMode.Value,
    colorMode: BigValueColorMode.Value,
    graphMode: BigValueGraphMode.None,
    justifyMode: BigValueJustifyMode.Auto,
    percentChangeColorMode: PercentChangeColorMode.Standard,
    showPercentChange: false,
    wideLayout: true,
  };
  return panel(
    "stat",
    { width: 4, ...content },
    { fieldConfig: { defaults: defaults(content), overrides: [] }, options: { ...options } },
    true,
  );
};

const rows: [title: string, panels: Panel[]][] = [
  [
    "Traffic",
    [
      stat({
        title: "Confirmed calls",
        description: "The share of calls answered 200 in the time range.",
        unit: "percentunit",
        queries: [["", `${sum(total("keen_edge_responses", 'code="200"'))} / ${sum(total("keen_edge_responses"))}`]],
        thresholds: [
          { value: null, color: "red" },
          { value: 0.99, color: "green" },
        ],
      }),
      stat({
        title: "Clients",
        description: "Open connections of clients.",
        unit: "short",
        queries: [["", sum(metric("envoy_http_downstream_cx_active", 'envoy_http_conn_manager_prefix="segment"'))]],
      }),
      graph({
        title: "Calls",
        description: "Calls on Segment's paths per second.",
        unit: "reqps",
        queries: [["calls", sum(rate("keen_edge_requests"))]],
      }),
      graph(
        {
          title: "Responses by status",
          description: "200: the events are stored. 400: not retried by SDKs. 429 and 503: retried.",
          unit: "reqps",
          queries: [["{{code}}", sum(rate("keen_edge_responses"), "code")]],
        },
        true,
      ),
      graph({
        title: "Time until a client has its answer",
        description: "All requests of the listener, other routes included. The tail is Keen's, retries included.",
        unit: "ms",
        queries: quantiles("envoy_http_downstream_rq_time", 'envoy_http_conn_manager_prefix="segment"'),
      }),
      graph({
        title: "Messages by source",
        description: "Messages in the bodies of calls. `unknown`: a write key that is not configured.",
        unit: "cps",
        queries: [["{{source}}", sum(rate("keen_edge_messages"), "source")]],
      }),
      graph({
        title: "Events by source",
        description: "Events admitted for delivery. One page call may become three events, and an identify none.",
        unit: "cps",
        queries: [["{{source}}", sum(rate("keen_edge_events"), "source")]],
      }),
    ],
  ],
  [
    "Deliveries",
    [
      graph({
        title: "Events delivered",
        description: "Events that Keen has confirmed, by project.",
        unit: "cps",
        queries: [["{{project}}", sum(rate("keen_edge_events_delivered"), "project")]],
      }),
      graph({
        title: "Delivery time",
        description: "From the admission of an event until Keen has confirmed it, retries included. A callout counts once, with its oldest event.",
        unit: "ms",
        queries: quantiles("keen_edge_delivery_ms"),
      }),
      graph({
        title: "Callout time",
        description: "Duration of one call to Keen.",
        unit: "ms",
        queries: quantiles("keen_edge_callout_ms"),
      }),
      graph({
        title: "Callouts and retries",
        description: "Calls to Keen, and those whose events are sent again.",
        unit: "reqps",
        queries: [
          ["{{project}}", sum(rate("keen_edge_callouts"), "project")],
          ["{{project}} retried", sum(rate("keen_edge_callouts_retried"), "project")],
        ],
      }),
      graph({
        title: "Events per callout",
        description: "More events share a callout when Keen is slow.",
        unit: "short",
        queries: [
          ["mean", `${sum(rate("keen_edge_batch_events_sum"))} / ${sum(rate("keen_edge_batch_events_count"))}`],
          ["p99", quantile(0.99, "keen_edge_batch_events")],
        ],
      }),
      graph({
        title: "Events not delivered",
        description: "Unconfirmed: the client got 503 and retries. Dropped: lost.",
        unit: "cps",
        queries: [
          ["{{project}} unconfirmed", sum(rate("keen_edge_events_unconfirmed"), "project")],
          ["{{project}} dropped: {{reason}}", sum(rate("keen_edge_events_dropped"), "project", "reason")],
        ],
      }),
    ],
  ],
  [
    "Rejections by reason",
    [
      graph(
        {
          title: "Calls not answered 200",
          description: "400, 429 and 503 by reason. docs/troubleshooting.md leads from each to its cure.",
          unit: "reqps",
          queries: [["{{reason}}", sum(rate("keen_edge_requests_rejected"), "reason")]],
        },
        true,
      ),
      graph(
        {
          title: "Messages that became no event",
          description: "By source and reason.",
          unit: "cps",
          queries: [["{{source}}: {{reason}}", sum(rate("keen_edge_messages_skipped"), "source", "reason")]],
        },
        true,
      ),
      graph(
        {
          title: "Events that Keen rejected",
          description: "By project and Keen's error name. The log names sources, collection and error.",
          unit: "cps",
          queries: [["{{project}}: {{error}}", sum(rate("keen_edge_events_rejected"), "project", "error")]],
        },
        true,
      ),
      graph({
        title: "Values changed, copies dropped",
        description: "Names and values that Keen would have rejected, and requests of `intercept: forward` without a copy for Keen.",
        unit: "cps",
        queries: [
          ["values sanitized", sum(rate("keen_edge_values_sanitized"))],
          ["copies dropped", sum(rate("keen_edge_requests_mirror_dropped"))],
        ],
      }),
    ],
  ],
  [
    "Queue",
    [
      graph({
        title: "Pending bytes",
        description: "Bytes of pending events of an instance, and `delivery.maxPendingBytes` of all its workers.",
        unit: "bytes",
        queries: [
          ["{{instance}}", sum(metric("keen_edge_pending_bytes"), "instance")],
          ["{{instance}} limit", `${sum(metric("keen_edge_pending_bytes_limit"), "instance")} * ${sum(metric("envoy_server_concurrency"), "instance")}`],
        ],
      }),
      graph({
        title: "Queue fill",
        description: "Pending bytes relative to the limit. At the limit clients get 429.",
        unit: "percentunit",
        queries: [
          [
            "{{instance}}",
            `${sum(metric("keen_edge_pending_bytes"), "instance")} / (${sum(metric("keen_edge_pending_bytes_limit"), "instance")} * ${sum(metric("envoy_server_concurrency"), "instance")})`,
          ],
        ],
      }),
      stat({
        title: "Bytes lost with failed VMs",
        description: "Pending in a VM that failed, in the time range. Waiting clients retry theirs.",
        unit: "bytes",
        queries: [["", sum(total("keen_edge_pending_bytes_lost"))]],
        thresholds: redAboveZero,
      }),
    ],
  ],
  [
    "Destinations",
    [
      stat({
        title: "Destination",
        description: "down: Keen's last reply rejected everything for that project. Check its id, its write key and its plan.",
        unit: "short",
        queries: [["{{project}}", `min by (project) (${metric("keen_edge_destination_up")})`]],
        thresholds: redBelowOne,
        mappings: upOrDown,
        width: 8,
      }),
      graph({
        title: "Keen's replies",
        description: "Callouts by status, as Envoy's cluster counts them. 504 and 503 may be Envoy's own, for a timeout or a reset.",
        unit: "reqps",
        queries: [
          [
            "{{envoy_cluster_name}} {{envoy_response_code}}",
            sum(rate("envoy_cluster_upstream_rq", 'envoy_cluster_name=~"keen.*"'), "envoy_cluster_name", "envoy_response_code"),
          ],
        ],
      }),
      graph({
        title: "Connections to Keen",
        description: "Failed and timed out connection attempts, timed out calls, and calls over the cluster's circuit breaker.",
        unit: "cps",
        queries: [
          ["{{envoy_cluster_name}} connect failed", sum(rate("envoy_cluster_upstream_cx_connect_fail", 'envoy_cluster_name=~"keen.*"'), "envoy_cluster_name")],
          ["{{envoy_cluster_name}} timeout", sum(rate("envoy_cluster_upstream_rq_timeout", 'envoy_cluster_name=~"keen.*"'), "envoy_cluster_name")],
          ["{{envoy_cluster_name}} circuit breaker", sum(rate("envoy_cluster_upstream_rq_pending_overflow", 'envoy_cluster_name=~"keen.*"'), "envoy_cluster_name")],
        ],
      }),
    ],
  ],
  [
    "Overflow",
    [
      stat({
        title: "Overflow queue",
        description: "down: the last request to the queue failed. No data: no instance has used a queue.",
        unit: "short",
        queries: [["{{instance}}", `min by (instance) (${metric("keen_edge_overflow_up")})`]],
        thresholds: redBelowOne,
        mappings: upOrDown,
        width: 8,
      }),
      graph({
        title: "Events to and from the queue",
        description: "Overflowed: sent to the queue. Drained: brought from the queue to Keen.",
        unit: "cps",
        queries: [
          ["overflowed", sum(rate("keen_edge_events_overflowed"))],
          ["drained", sum(rate("keen_edge_events_drained"))],
          ["drained {{project}}, rejected: {{error}}", sum(rate("keen_edge_events_drained_rejected"), "project", "error")],
        ],
      }),
      graph({
        title: "Trouble with the queue",
        description: "Events that the queue did not take, and messages left to its redrive policy, each time they are received. The log says why.",
        unit: "cps",
        queries: [
          ["events not taken", sum(rate("keen_edge_events_overflow_failed"))],
          ["messages left", sum(rate("keen_edge_overflow_messages_left"))],
        ],
      }),
      stat({
        title: "Left in the queue",
        description: "Overflowed minus drained in the time range. The queue's own metrics have the exact number.",
        unit: "short",
        queries: [
          [
            "",
            `${sum(total("keen_edge_events_overflowed"))} - ${sum(total("keen_edge_events_drained"))} - (${sum(total("keen_edge_events_drained_rejected"))} or vector(0))`,
          ],
        ],
        thresholds: redAboveZero,
      }),
    ],
  ],
  [
    "Users",
    [
      graph({
        title: "User updates",
        description: "Written to the user store, and rejected because they were too large or too many.",
        unit: "cps",
        queries: [
          ["written", sum(rate("keen_edge_user_updates_written"))],
          ["rejected", sum(rate("keen_edge_user_updates_rejected"))],
        ],
      }),
      graph({
        title: "Users evicted",
        description: "Removed because `users.max` or `users.maxBytes` was reached.",
        unit: "cps",
        queries: [["evicted", sum(rate("keen_edge_users_evicted"))]],
      }),
      graph({
        title: "Events without their user's traits",
        description: "The traits of one request exceeded their bound.",
        unit: "cps",
        queries: [["events", sum(rate("keen_edge_events_traits_omitted"))]],
      }),
    ],
  ],
  [
    "VM",
    [
      stat({
        title: "Version",
        description: "Instances by the version of the filter.",
        unit: "short",
        queries: [["{{version}}", `count by (version) (${metric("keen_edge_build_info")})`]],
      }),
      stat({
        title: "Workers",
        description: "Worker threads of all instances. Each has its own VM.",
        unit: "short",
        queries: [["", sum(metric("envoy_server_concurrency"))]],
      }),
      stat({
        title: "Failed VMs",
        description: "VMs that failed and were restarted, and restarts that failed, in the time range. Report the line with `panicked` in Envoy's log.",
        unit: "short",
        queries: [
          ["restarted", sum(total("envoy_wasm_keen_edge_vm_reload_success"))],
          ["not restarted", sum(total("envoy_wasm_keen_edge_vm_reload_failure"))],
        ],
        thresholds: redAboveZero,
        width: 8,
      }),
      graph({
        title: "Memory of Envoy",
        description: "Allocated by Envoy, its VMs' memory not included; and resident, included.",
        unit: "bytes",
        queries: [
          ["{{instance}} allocated", sum(metric("envoy_server_memory_allocated"), "instance")],
          ["{{instance}} resident", sum(metric("envoy_server_memory_physical_size"), "instance")],
        ],
      }),
    ],
  ],
];

/** Numbers the panels, and places them in rows of 24 columns. */
function arrange(): (Panel | RowPanel)[] {
  const arranged: (Panel | RowPanel)[] = [];
  let y = 0;
  for (const [title, panels] of rows) {
    const row: RowPanel = { type: "row", title, collapsed: false, id: arranged.length + 1, gridPos: { x: 0, y, w: 24, h: 1 }, panels: [] };
    arranged.push(row);
    y += 1;
    let x = 0;
    for (const each of panels) {
      const { w, h } = each.gridPos ?? { w: 8, h: 8 };
      if (x + w > 24) {
        x = 0;
        y += h;
      }
      arranged.push({ ...each, id: arranged.length + 1, gridPos: { x, y, w, h } });
      x += w;
    }
    y += 8;
  }
  return arranged;
}

const dashboard: Dashboard = {
  ...defaultDashboard,
  uid: "keen-edge",
  title: "keen-edge",
  description: "Segment's calls through Envoy to Keen. Generated from deploy/grafana/dashboard.ts.",
  tags: ["envoy", "keen-edge"],
  schemaVersion: 42,
  editable: true,
  graphTooltip: DashboardCursorSync.Crosshair,
  refresh: "30s",
  time: { from: "now-3h", to: "now" },
  timezone: "browser",
  templating: {
    list: [
      {
        type: "datasource",
        name: "datasource",
        label: "Prometheus",
        query: "prometheus",
        refresh: VariableRefresh.onDashboardLoad,
        hide: VariableHide.dontHide,
        multi: false,
        includeAll: false,
      },
      {
        type: "query",
        name: "instance",
        label: "Instance",
        datasource: prometheus,
        query: "label_values(keen_edge_requests, instance)",
        refresh: VariableRefresh.onTimeRangeChanged,
        sort: VariableSort.alphabeticalAsc,
        hide: VariableHide.dontHide,
        multi: true,
        includeAll: true,
        allValue: ".*",
        current: { text: "All", value: "$__all" },
      },
    ],
  },
  panels: arrange(),
};

console.log(JSON.stringify(dashboard, null, 2));
