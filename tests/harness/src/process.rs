//! Child processes that end with the process that started them, however that one ends.

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, mpsc},
    thread,
};

type Request = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts `program` with its output in `log`.
///
/// It has a process group of its own, so that Ctrl-C reaches only the process that started it. Where util-linux's
/// `setpriv` is there the kernel kills the child when that process is gone: an Envoy in a `static` is never dropped,
/// and a test run that is killed drops nothing.
pub(crate) fn spawn(program: &Path, args: &[String], log: &Path) -> io::Result<Child> {
    let out = File::create(log)?;
    let err = out.try_clone()?;
    let mut command = if Path::new(SETPRIV).exists() {
        let mut command = Command::new(SETPRIV);
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(args).stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
    spawn_from_a_lasting_thread(command)
}

const SETPRIV: &str = "/usr/bin/setpriv";

/// The kernel takes the end of the thread that started a child for the end of its parent, and a test has a thread of
/// its own. So one thread that lasts starts them all.
fn spawn_from_a_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: Mutex<Option<mpsc::Sender<Request>>> = Mutex::new(None);
    let (answer, answered) = mpsc::channel();
    {
        let mut spawner = SPAWNER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let requests = spawner.get_or_insert_with(|| {
            let (requests, todo) = mpsc::channel::<Request>();
            thread::spawn(move || {
                for (mut command, answer) in todo {
                    let _ = answer.send(command.spawn());
                }
            });
            requests
        });
        requests.send((command, answer)).map_err(io::Error::other)?;
    }
    answered.recv().map_err(io::Error::other)?
}
