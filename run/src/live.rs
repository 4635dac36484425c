//! Reads Envoy's logs, and joins each call with its messages.

use crate::calls::{Call, Message};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

/// Maximum number of messages that are kept for calls without a response so far.
const MAX_PENDING_MESSAGES: usize = 50_000;

/// The calls that pass through Envoy.
pub(crate) struct LiveCalls {
    access_log: Tail,
    log: Option<Tail>,
    /// Messages whose call is not in the access log yet, oldest first.
    pending: VecDeque<Message>,
}

impl LiveCalls {
    pub(crate) fn new() -> io::Result<Self> {
        let path = harness::root().join("target/tmp/run-access.log");
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        File::create(&path)?;
        Ok(Self { access_log: Tail::new(path), log: None, pending: VecDeque::new() })
    }

    /// The access logger that [`LiveCalls::poll`] reads, for Envoy's configuration.
    pub(crate) fn access_log_config(&self) -> Value {
        json!({
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": self.access_log.path,
                "log_format": {"json_format": Call::access_log_format()},
            },
        })
    }

    /// The calls that Envoy has answered since the last poll.
    pub(crate) fn poll(&mut self, log: &Path) -> Vec<Call> {
        // The filter logs a request's messages before Envoy logs the request, so the access log
        // is read first.
        let calls: Vec<Call> =
            self.access_log.lines().iter().filter_map(|line| Call::parse(line)).collect();
        let log = self.log.get_or_insert_with(|| Tail::new(log.to_owned()));
        self.pending.extend(log.lines().iter().filter_map(|line| Message::parse(line)));
        let excess = self.pending.len().saturating_sub(MAX_PENDING_MESSAGES);
        self.pending.drain(..excess);
        calls.into_iter().map(|call| self.join(call)).collect()
    }

    fn join(&mut self, mut call: Call) -> Call {
        let mut rest = VecDeque::new();
        // Without request ids the order decides: a path that names a type has one message, and a
        // batch has all of them.
        let mut next_of_type = call.message_type();
        for message in self.pending.drain(..) {
            let belongs = match &message.request_id {
                Some(id) => *id == call.request_id,
                None if call.is_batch() => true,
                None => next_of_type.take_if(|wanted| *wanted == message.message_type).is_some(),
            };
            if belongs {
                call.messages.push(message);
            } else {
                rest.push_back(message);
            }
        }
        self.pending = rest;
        call
    }
}

/// Reader of the lines that are appended to a file.
struct Tail {
    path: PathBuf,
    offset: u64,
    /// The start of a line whose end is not written yet.
    partial: Vec<u8>,
}

impl Tail {
    fn new(path: PathBuf) -> Self {
        Self { path, offset: 0, partial: Vec::new() }
    }

    fn lines(&mut self) -> Vec<String> {
        let mut bytes = std::mem::take(&mut self.partial);
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            file.read_to_end(&mut bytes)
        });
        self.offset += read.unwrap_or(0) as u64;
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        self.partial = bytes.split_off(end);
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::Style;
    use std::io::Write as _;

    fn live(test: &str) -> (LiveCalls, PathBuf, PathBuf) {
        let dir = harness::root().join("target/tmp");
        fs::create_dir_all(&dir).unwrap();
        let access = dir.join(format!("run-{test}-access.log"));
        let log = dir.join(format!("run-{test}.log"));
        for path in [&access, &log] {
            File::create(path).unwrap();
        }
        let live = LiveCalls {
            access_log: Tail::new(access.clone()),
            log: None,
            pending: VecDeque::new(),
        };
        (live, access, log)
    }

    fn append(path: &Path, text: &str) {
        File::options().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn access_line(id: &str, path: &str) -> String {
        json!({"request": id, "method": "POST", "path": path, "status": 200, "ms": 1}).to_string()
            + "\n"
    }

    #[test]
    fn poll_joins_messages_by_request_id() {
        let (mut live, access, log) = live("joins");
        append(&log, "x message request=b source=s type=track events=B\n");
        append(&log, "x message request=a source=s type=track events=A\n");
        append(&access, &(access_line("a", "/v1/batch") + &access_line("b", "/v1/track")));
        let lines: Vec<_> = live.poll(&log).iter().map(|call| call.line(Style::Plain)).collect();
        assert!(lines[0].contains("\"A\"") && !lines[0].contains("\"B\""), "{lines:?}");
        assert!(lines[1].contains("\"B\""), "{lines:?}");
    }

    #[test]
    fn poll_without_request_ids_joins_in_order() {
        let (mut live, access, log) = live("order");
        append(&log, "x message source=s type=track events=A\n");
        append(&log, "x message source=s type=page skipped=no_page_setting\n");
        append(&access, &(access_line("-", "/v1/page") + &access_line("-", "/v1/track")));
        let calls = live.poll(&log);
        assert_eq!(calls[0].messages[0].message_type, "page");
        assert_eq!(calls[1].messages[0].message_type, "track");
    }

    #[test]
    fn poll_waits_for_the_end_of_a_line() {
        let (mut live, access, log) = live("partial");
        let line = access_line("a", "/v1/track");
        append(&access, &line[..10]);
        assert!(live.poll(&log).is_empty());
        append(&access, &line[10..]);
        assert_eq!(live.poll(&log).len(), 1);
        assert!(live.poll(&log).is_empty());
    }

    #[test]
    fn pending_messages_are_bounded() {
        let (mut live, _, log) = live("bounded");
        append(&log, &"message source=s type=track events=A\n".repeat(MAX_PENDING_MESSAGES + 10));
        live.poll(&log);
        assert_eq!(live.pending.len(), MAX_PENDING_MESSAGES);
    }
}
