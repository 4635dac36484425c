//! Metrics: counted in the VM, told to Envoy by the tick. One host call a counter and tick, not one a request.

use super::host;
use proxy_wasm::types::MetricType;

/// Error names of Keen's with a counter of their own; further ones are counted together.
const MOST_ERRORS: usize = 32;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// What has been counted since Envoy was told.
        #[derive(Debug, Default)]
        pub(super) struct Counted {
            $($(#[$doc])* pub(super) $name: u64,)+
        }

        impl Counted {
            const NAMES: &[&str] = &[$(concat!("keen_edge_", stringify!($name))),+];

            fn take(&mut self) -> Vec<u64> {
                vec![$(std::mem::take(&mut self.$name)),+]
            }
        }
    };
}

counters! {
    /// Requests on Segment's paths.
    requests,
    /// … answered 400.
    requests_refused,
    /// … answered 429.
    requests_over_bound,
    /// … answered 503.
    requests_unavailable,
    /// … that went on to the route, and of which Keen gets no copy: unreadable, too large, or over our bounds.
    requests_not_copied,
    /// Messages in bodies.
    messages,
    /// … that give no event.
    messages_dropped,
    /// … of no known source.
    messages_unknown_source,
    /// Events taken for delivery.
    events,
    /// Names and values made legal for Keen.
    values_mended,
    /// Events Keen has.
    events_recorded,
    /// Events Keen refused for what they hold.
    events_refused,
    /// Events whose callers were told to send again.
    events_failed,
    /// Events given up that no caller sends again: of `ack: accepted` and `intercept: forward`.
    events_dropped,
    /// Calls to Keen.
    calls,
    /// What was remembered of users.
    users_remembered,
    /// UserTransaction forgotten because there were more than may be.
    users_evicted,
    /// What was not remembered: too large.
    users_refused,
    /// Events that show their user without traits: those of the request had become too many bytes.
    users_not_shown,
    /// … whose events go again.
    calls_retried,
}

/// All metrics of a root context.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    pub(super) counted: Counted,
    ids: Vec<Option<u32>>,
    pending: Option<u32>,
    told_pending: i64,
    up: Vec<Up>,
    errors: Vec<Refused>,
}

/// Events that Keen refused for one reason, since Envoy was told.
#[derive(Debug)]
struct Refused {
    error: String,
    id: Option<u32>,
    events: u64,
}

/// Whether Keen takes a destination's events.
#[derive(Debug)]
struct Up {
    id: Option<u32>,
    up: bool,
    /// Learnt since Envoy was told. All workers tell of one gauge, and the last to learn is right, news or not.
    learnt: bool,
}

impl Metrics {
    /// Defines them. `projects`: the destinations' project ids.
    pub(super) fn new<'a>(projects: impl Iterator<Item = &'a str>) -> Self {
        let up = |project| {
            let id = host::define_metric(
                MetricType::Gauge,
                &format!("keen_edge_destination_up.project.{project}"),
            );
            Up { id, up: true, learnt: true }
        };
        let mut metrics = Self {
            counted: Counted::default(),
            ids: Counted::NAMES
                .iter()
                .map(|name| host::define_metric(MetricType::Counter, name))
                .collect(),
            pending: host::define_metric(MetricType::Gauge, "keen_edge_pending_bytes"),
            told_pending: 0,
            up: projects.map(up).collect(),
            errors: Vec::new(),
        };
        metrics.flush(0);
        metrics
    }

    /// Counts an event that Keen refused. True where a counter of its own tells of it.
    pub(super) fn refused(&mut self, error: &str) {
        self.counted.events_refused = self.counted.events_refused.saturating_add(1);
        let place = |errors: &[Refused], name: &str| {
            errors.iter().position(|refused| refused.error == name)
        };
        let known = place(&self.errors, error);
        let name = if known.is_some() || self.errors.len() < MOST_ERRORS { error } else { "other" };
        let at = known.or_else(|| place(&self.errors, name)).unwrap_or_else(|| {
            let id = host::define_metric(
                MetricType::Counter,
                &format!("keen_edge_events_refused_by_error.error.{name}"),
            );
            self.errors.push(Refused { error: name.to_owned(), id, events: 0 });
            self.errors.len().saturating_sub(1)
        });
        if let Some(refused) = self.errors.get_mut(at) {
            refused.events = refused.events.saturating_add(1);
        }
    }

    /// Keen has taken a destination's events, or will not take any.
    pub(super) fn destination(&mut self, destination: usize, up: bool) {
        if let Some(known) = self.up.get_mut(destination) {
            known.up = up;
            known.learnt = true;
        }
    }

    /// Tells Envoy.
    pub(super) fn flush(&mut self, pending_bytes: usize) {
        for (id, by) in self.ids.iter().zip(self.counted.take()) {
            if let Some(id) = id {
                host::increment_counter(*id, by);
            }
        }
        for refused in &mut self.errors {
            if let Some(id) = refused.id {
                host::increment_counter(id, std::mem::take(&mut refused.events));
            }
        }
        for known in &mut self.up {
            if let (true, Some(id)) = (std::mem::take(&mut known.learnt), known.id) {
                host::record_metric(id, u64::from(known.up));
            }
        }
        // Each worker adds what it holds to one gauge.
        let pending = i64::try_from(pending_bytes).unwrap_or(i64::MAX);
        if let Some(id) = self.pending {
            host::add_to_gauge(id, pending.saturating_sub(self.told_pending));
            self.told_pending = pending;
        }
    }
}
