//! The running mock, for tests.

use crate::faults::{Fault, Faults};
use crate::store::{CallRecord, Counts, Limits, RefusalRecord, Store, StoredEvent};
use crate::{PROJECT, WRITE_KEY, conn};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A project and its keys.
#[derive(Clone, Debug, Default)]
pub struct Project {
    /// Its id.
    pub id: String,
    /// The key that may write.
    pub write_key: String,
    /// The key that may only read. Writing with it is forbidden.
    pub read_key: String,
    /// The key that may do everything.
    pub master_key: String,
    /// Access keys.
    pub access_keys: Vec<AccessKey>,
    /// Blocked for non-payment: every write is answered 402.
    pub blocked: bool,
}

impl Project {
    /// Creates a project with this id and write key. Its read and master keys are `READ` and
    /// `MASTER` followed by the id.
    pub fn new(id: &str, write_key: &str) -> Self {
        Self {
            id: id.to_owned(),
            write_key: write_key.to_owned(),
            read_key: format!("READ{id}"),
            master_key: format!("MASTER{id}"),
            ..Self::default()
        }
    }
}

/// An access key.
#[derive(Clone, Debug, Default)]
pub struct AccessKey {
    /// The key.
    pub key: String,
    /// Its permissions; a write needs `writes`.
    pub permitted: Vec<String>,
    /// Properties set in each event written with it. They replace the event's own.
    pub autofill: Map<String, Value>,
}

/// An Envoy with keen-edge in front of this mock.
#[derive(Clone, Debug)]
pub struct SegmentEndpoint {
    /// Its URL, without a path.
    pub url: String,
    /// A source's write key.
    pub write_key: String,
}

/// Options of [`MockKeen::start`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen on; port 0 picks a free one.
    pub addr: SocketAddr,
    /// The projects.
    pub projects: Vec<Project>,
    /// Refuse collection names with a leading `_`, or a leading or trailing `.`, which only Keen's
    /// 2014 guide forbids.
    pub strict_names: bool,
    /// Close the connection after each reply, as in every recording of Keen.
    pub connection_close: bool,
    /// How much the mock keeps.
    pub limits: Limits,
    /// Where the page's example call goes; to the mock itself if absent.
    pub segment: Option<SegmentEndpoint>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            projects: vec![Project::new(PROJECT, WRITE_KEY)],
            strict_names: true,
            connection_close: false,
            limits: Limits::default(),
            segment: None,
        }
    }
}

/// State shared by all connections.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) faults: Faults,
    pub(crate) projects: RwLock<BTreeMap<String, Project>>,
    pub(crate) strict_names: bool,
    pub(crate) connection_close: bool,
    pub(crate) segment: Option<SegmentEndpoint>,
    /// Incremented by each stop.
    pub(crate) stops: watch::Sender<u64>,
}

impl Shared {
    /// The number of stops so far, for [`Shared::stopped`].
    pub(crate) fn life(&self) -> u64 {
        *self.stops.borrow()
    }

    /// Waits for the stop after `life` stops.
    pub(crate) async fn stopped(&self, life: u64) {
        // `self` owns the sender, so this cannot fail.
        let _ = self.stops.subscribe().wait_for(|stops| *stops != life).await;
    }

    fn stop(&self) {
        self.stops.send_modify(|stops| *stops += 1);
    }

    pub(crate) fn reset(&self) {
        self.faults.clear();
        self.store.reset();
    }
}

/// A running mock. Dropping it stops it.
///
/// It has its own threads, so a test may block its thread.
pub struct MockKeen {
    shared: Arc<Shared>,
    addr: SocketAddr,
    runtime: Option<Runtime>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

/// [`MockKeen::wait_for_events`] timed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimedOut {
    /// Expected number of events.
    pub wanted: usize,
    /// Stored events.
    pub stored: usize,
    /// Refused events.
    pub refused: u64,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, stored, refused } = self;
        write!(f, "expected {wanted} events; Keen stored {stored} and refused {refused}")
    }
}

impl std::error::Error for TimedOut {}

impl MockKeen {
    /// Starts a mock.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start(options: Options) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("mock-keen")
            // Dropping a deeply nested event recurses.
            .thread_stack_size(16 << 20)
            .enable_all()
            .build()?;
        let projects = options.projects.into_iter().map(|project| (project.id.clone(), project));
        let shared = Arc::new(Shared {
            store: Store::new(options.limits),
            faults: Faults::new(),
            projects: RwLock::new(projects.collect()),
            strict_names: options.strict_names,
            connection_close: options.connection_close,
            segment: options.segment,
            stops: watch::Sender::new(0),
        });
        let mut mock =
            Self { shared, addr: options.addr, runtime: Some(runtime), serving: Mutex::new(None) };
        mock.addr = mock.serve().await?;
        Ok(mock)
    }

    async fn serve(&self) -> io::Result<SocketAddr> {
        let Some(runtime) = &self.runtime else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let bound = runtime.spawn(TcpListener::bind(self.addr)).await;
        let listener = bound.map_err(io::Error::other)??;
        let addr = listener.local_addr()?;
        let serving = runtime.spawn(conn::serve(listener, self.shared.clone(), self.shared.life()));
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = Some(serving);
        Ok(addr)
    }

    /// The address it listens on. It stays the same while the mock is stopped.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Adds a project, or replaces the one with the same id.
    pub fn add_project(&self, project: Project) {
        let projects = self.shared.projects.write();
        let mut projects = projects.unwrap_or_else(PoisonError::into_inner);
        projects.insert(project.id.clone(), project);
    }

    /// The stored events, oldest first.
    pub fn events(&self) -> Vec<StoredEvent> {
        self.shared.store.events(|_, _| true)
    }

    /// The stored events of a project, oldest first.
    pub fn events_in(&self, project: &str) -> Vec<StoredEvent> {
        self.shared.store.events(|stored, _| stored == project)
    }

    /// The calls to the write API, oldest first.
    pub fn calls(&self) -> Vec<CallRecord> {
        self.shared.store.calls()
    }

    /// The refused events and calls, oldest first.
    pub fn refusals(&self) -> Vec<RefusalRecord> {
        self.shared.store.refusals()
    }

    /// The number of events dropped because their uniqueness token was already known.
    pub fn duplicates(&self) -> u64 {
        self.counts().duplicates
    }

    /// The number of events stored, refused and dropped since the start or the last reset,
    /// including events that are no longer kept.
    pub fn counts(&self) -> Counts {
        self.shared.store.totals()
    }

    /// Adds a fault.
    pub fn fault(&self, fault: impl Into<Fault>) {
        self.shared.faults.add(fault.into());
    }

    /// The pending faults.
    pub fn faults(&self) -> Vec<Fault> {
        self.shared.faults.list()
    }

    /// Removes all faults. Hanging calls continue.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// Removes events, tokens, calls, refusals and faults.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Waits until `wanted` events have been stored since the start or the last reset.
    ///
    /// # Errors
    /// There are fewer after `timeout`.
    pub async fn wait_for_events(&self, wanted: usize, timeout: Duration) -> Result<(), TimedOut> {
        let mut changes = self.shared.store.changes();
        let enough = async {
            while self.stored() < wanted {
                // The store owns the sender, so this cannot fail.
                let _ = changes.changed().await;
            }
        };
        match tokio::time::timeout(timeout, enough).await {
            Ok(()) => Ok(()),
            Err(_) => {
                Err(TimedOut { wanted, stored: self.stored(), refused: self.counts().refused })
            }
        }
    }

    fn stored(&self) -> usize {
        usize::try_from(self.counts().stored).unwrap_or(usize::MAX)
    }

    /// Closes the listener and every connection, including those with calls in flight. Stored
    /// events stay.
    pub async fn stop(&self) {
        self.shared.stop();
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(serving) = serving {
            // A panic of the thread shows in the test's output.
            let _ = serving.await;
        }
    }

    /// Starts again on the same port with the stored events.
    ///
    /// # Errors
    /// Another process took the port.
    pub async fn start_again(&self) -> io::Result<()> {
        self.stop().await;
        self.serve().await?;
        Ok(())
    }
}

impl Drop for MockKeen {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
