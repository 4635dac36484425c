//! The mock as a value: started, asked, stopped.

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

/// A project, and the keys to it.
#[derive(Clone, Debug, Default)]
pub struct Project {
    /// Its id.
    pub id: String,
    /// The key that may write.
    pub write_key: String,
    /// The key that may only read: a write with it is forbidden.
    pub read_key: String,
    /// The key that may do everything.
    pub master_key: String,
    /// Further keys, as Keen's docs on access keys have them.
    pub access_keys: Vec<AccessKey>,
    /// Blocked for lack of payment: every call is answered 402.
    pub blocked: bool,
}

impl Project {
    /// A project with this id and write key. Its other keys are `READ` and `MASTER`, each with
    /// the id after it.
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
    /// What it permits; a write needs `writes`.
    pub permitted: Vec<String>,
    /// Properties added to each event written with it, in place of the event's own.
    pub autofill: Map<String, Value>,
}

/// Where Segment calls for this mock go in: an Envoy with keen-edge.
#[derive(Clone, Debug)]
pub struct SegmentEndpoint {
    /// Its URL, without a path.
    pub url: String,
    /// A source's write key.
    pub write_key: String,
}

/// How a mock is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub addr: SocketAddr,
    /// The projects.
    pub projects: Vec<Project>,
    /// Refuses a collection name with a leading `_`, a leading or a trailing `.`, which only
    /// Keen's guide of 2014 forbids.
    pub strict_names: bool,
    /// Closes the connection after each reply, as Keen did in every recording.
    pub connection_close: bool,
    /// How much is kept.
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

/// What the routes share with the mock.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) faults: Faults,
    pub(crate) projects: RwLock<BTreeMap<String, Project>>,
    pub(crate) strict_names: bool,
    pub(crate) connection_close: bool,
    pub(crate) segment: Option<SegmentEndpoint>,
    /// Counts the stops.
    pub(crate) stops: watch::Sender<u64>,
}

impl Shared {
    /// How often the mock was stopped, for [`Shared::stopped`].
    pub(crate) fn life(&self) -> u64 {
        *self.stops.borrow()
    }

    /// Waits until this life of the mock has ended.
    pub(crate) async fn stopped(&self, life: u64) {
        // The sender lives as long as this does.
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
/// It runs on threads of its own, so a test may block its own thread.
pub struct MockKeen {
    shared: Arc<Shared>,
    addr: SocketAddr,
    runtime: Option<Runtime>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

/// There were fewer events than waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimedOut {
    /// How many were waited for.
    pub wanted: usize,
    /// How many there were.
    pub stored: usize,
    /// How many were refused meanwhile.
    pub refused: u64,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, stored, refused } = self;
        write!(f, "waited for {wanted} events; Keen has {stored}, and refused {refused}")
    }
}

impl std::error::Error for TimedOut {}

impl MockKeen {
    /// Starts a mock.
    ///
    /// # Errors
    /// Where the address cannot be listened on.
    pub async fn start(options: Options) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("mock-keen")
            // Events may nest deep, and are dropped level by level.
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

    /// Where it listens, also while it is stopped.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Adds a project, or replaces the one of that id.
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

    /// What was refused, oldest first.
    pub fn refusals(&self) -> Vec<RefusalRecord> {
        self.shared.store.refusals()
    }

    /// How many events were dropped as their uniqueness token had been seen.
    pub fn duplicates(&self) -> u64 {
        self.counts().duplicates
    }

    /// How many events were stored, refused and dropped since the start or the last reset,
    /// those included that are no longer kept.
    pub fn counts(&self) -> Counts {
        self.shared.store.totals()
    }

    /// Orders a fault.
    pub fn fault(&self, fault: impl Into<Fault>) {
        self.shared.faults.add(fault.into());
    }

    /// The faults still to come.
    pub fn faults(&self) -> Vec<Fault> {
        self.shared.faults.list()
    }

    /// Forgets the faults. Calls that hang go on.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// Forgets events, tokens, calls, refusals and faults.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Waits until this many events have been stored since the start or the last reset.
    ///
    /// # Errors
    /// Where there are fewer after that time.
    pub async fn wait_for_events(&self, wanted: usize, timeout: Duration) -> Result<(), TimedOut> {
        let mut changes = self.shared.store.changes();
        let enough = async {
            while self.stored() < wanted {
                // The sender lives as long as the mock.
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

    /// Closes the listener and every connection, calls in flight included. What is stored
    /// stays.
    pub async fn stop(&self) {
        self.shared.stop();
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(serving) = serving {
            // It ends by itself; that it panicked would show in the test.
            let _ = serving.await;
        }
    }

    /// Starts again on the same port, with what was stored before.
    ///
    /// # Errors
    /// Where the port was taken meanwhile.
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
