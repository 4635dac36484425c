//! Child processes that are killed when their parent exits, even if it crashes.

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
/// It has its own process group, so that Ctrl-C reaches only the parent. With util-linux's
/// `setpriv` the kernel kills the child when the parent exits: an Envoy in a `static` is never
/// dropped, and a killed test run drops nothing.
///
/// # Errors
/// The program cannot be started, or `log` cannot be written.
pub fn spawn(program: &Path, args: &[String], log: &Path) -> io::Result<Child> {
    spawn_with_env(program, args, &[], log)
}

/// Like [`spawn`], with additional environment variables.
pub(crate) fn spawn_with_env(
    program: &Path,
    args: &[String],
    envs: &[(String, String)],
    log: &Path,
) -> io::Result<Child> {
    let out = File::create(log)?;
    let err = out.try_clone()?;
    let mut command = if Path::new(SETPRIV).exists() {
        let mut command = Command::new(SETPRIV);
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command
        .args(args)
        .envs(envs.iter().cloned())
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0);
    spawn_from_long_lived_thread(command)
}

const SETPRIV: &str = "/usr/bin/setpriv";

/// For the kernel a child's parent is the thread that started it, and each test has its own thread.
/// So one thread that lives as long as the process starts all children.
fn spawn_from_long_lived_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: Mutex<Option<mpsc::Sender<Request>>> = Mutex::new(None);
    let (result, spawned) = mpsc::channel();
    {
        let mut spawner = SPAWNER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let requests = spawner.get_or_insert_with(|| {
            let (requests, queue) = mpsc::channel::<Request>();
            thread::spawn(move || {
                for (mut command, result) in queue {
                    let _ = result.send(command.spawn());
                }
            });
            requests
        });
        requests.send((command, result)).map_err(io::Error::other)?;
    }
    spawned.recv().map_err(io::Error::other)?
}
