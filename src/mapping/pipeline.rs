//! One request -> the events of all its messages, each for its own source's destination.

use super::{Client, Dropped, Mapper, Sink, Write, audience_events, without_placeholder};
use crate::config::{Config, Mode, Source};
use crate::json::Members;
use crate::mapping::identity::PageTraits;
use crate::segment::http::{BadRequestReason, CallerSide};
use crate::segment::message::Message;
use crate::segment::message::MessageType;
use crate::segment::message::body::{self, Body};
use crate::users::{SharedData, UserTransaction};

/// A request as the mapping sees it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The type of its one message. `None`: a batch.
    pub message_type: Option<MessageType>,
    /// Who calls, by the form of the endpoint.
    pub side: CallerSide,
    /// The write key of its `Authorization`.
    pub header_key: Option<&'a str>,
    /// Its body, inflated.
    pub body: &'a [u8],
    /// When it came, in milliseconds since 1970.
    pub now: i64,
}

/// Where a request's events go.
pub trait Destinations {
    /// Takes an event for the destination at that place in [`Config::destinations`].
    /// False where it is larger than Keen takes.
    fn event(&mut self, destination: usize, collection: &str, write: &mut Write<'_>) -> bool;
}

/// What became of a request's messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages in the body.
    pub messages: u64,
    /// Events for Keen.
    pub events: u64,
    /// Messages whose write key belongs to no source, or that have none.
    pub unknown_source: u64,
    /// Messages that give no event; see [`Dropped`].
    pub dropped: u64,
    /// Events that are larger than Keen takes, and were not sent.
    pub too_large: u64,
    /// Names and values that had to be made legal.
    pub mended: u64,
}

/// Maps a request.
///
/// `client` is asked for what the request tells of the client, at most once, and for its address only where a
/// source wants it and a message does not say it.
/// `token` makes a uniqueness token for a message without an id. `users` are those of sources that remember them: what
/// the request says of them is in there, and still to be kept.
///
/// # Errors
/// The request is answered 400.
pub fn map_request<'c>(
    config: &Config,
    request: Request<'_>,
    client: impl FnOnce(bool) -> Client<'c>,
    token: impl FnMut() -> String,
    users: &mut UserTransaction<'_, impl SharedData>,
    destinations: &mut impl Destinations,
) -> Result<Tally, BadRequestReason> {
    let body = body::read(request.message_type, request.body)
        .map_err(|_| BadRequestReason::MalformedJson)?;
    let sources = sources(config, request.header_key, &body)?;
    let wants_address = body.messages.iter().zip(&sources).any(|(message, source)| {
        source.is_some_and(|source| source.ip_addon)
            && !without_placeholder(message.context.ip).is_given()
    });
    let tally = Tally {
        messages: u64::try_from(body.messages.len()).unwrap_or(u64::MAX),
        dropped: u64::try_from(body.not_messages).unwrap_or(u64::MAX),
        ..Tally::default()
    };
    let client = client(wants_address);
    let one_page = request.message_type.is_none() && client.is_browser();
    let mapper = Mapper::new(client, request.now);
    let mut run = Run {
        client,
        mapper,
        token,
        users,
        page: one_page.then(PageTraits::default),
        destinations,
        tally,
    };
    for (message, source) in body.messages.iter().zip(&sources) {
        match source {
            Some(source) => run.message(message, body.properties(message), source),
            None => run.tally.unknown_source = run.tally.unknown_source.saturating_add(1),
        }
    }
    Ok(run.tally)
}

/// The mapping of one request, message by message.
struct Run<'r, 's, T, S, D> {
    client: Client<'r>,
    mapper: Mapper<'r>,
    token: T,
    users: &'r mut UserTransaction<'s, S>,
    /// The browser's page that all messages are of.
    page: Option<PageTraits>,
    destinations: &'r mut D,
    tally: Tally,
}

impl<T: FnMut() -> String, S: SharedData, D: Destinations> Run<'_, '_, T, S, D> {
    fn message(&mut self, message: &Message<'_>, properties: Members<'_>, source: &Source) {
        if message.kind == Some(MessageType::Identify)
            && message.integrations.enabled(&message.context)
            && !message.bundled
        {
            if source.remember_users {
                let page = self.page.as_mut().filter(|_| is_of_page(&self.client, message, source));
                self.users.identify(source, message, page);
            }
            if source.audience_events {
                for change in audience_events::changes(message) {
                    let mut members = Vec::new();
                    let properties = change.properties(&mut members);
                    self.event(&change.track(message), properties, source);
                }
            }
        }
        self.event(message, properties, source);
    }

    fn event(&mut self, message: &Message<'_>, properties: Members<'_>, source: &Source) {
        let shown = matches!(
            message.kind,
            Some(MessageType::Track | MessageType::Page | MessageType::Screen)
        );
        let user = if source.remember_users && shown {
            let page = self.page.as_ref().filter(|_| is_of_page(&self.client, message, source));
            self.users.user_for_event(source, message, page)
        } else {
            None
        };
        let mut sink =
            To { destination: source.destination_index, destinations: self.destinations };
        let tally = &mut self.tally;
        match self.mapper.map(
            message,
            properties,
            source,
            &mut self.token,
            user.as_ref(),
            &mut sink,
        ) {
            Ok(mapped) => {
                tally.events =
                    tally.events.saturating_add(u64::try_from(mapped.events).unwrap_or(0));
                tally.too_large =
                    tally.too_large.saturating_add(u64::try_from(mapped.too_large).unwrap_or(0));
                tally.mended = tally.mended.saturating_add(u64::from(mapped.mended));
            }
            Err(Dropped::NoEffect) => {}
            Err(_) => tally.dropped = tally.dropped.saturating_add(1),
        }
    }
}

/// Whether a message of a browser's batch is the page's own: in device mode, and not handed on by a server.
fn is_of_page(client: &Client<'_>, message: &Message<'_>, source: &Source) -> bool {
    source.mode == Mode::Device && client.is_visitor(&message.context)
}

/// The source of each message. A message's own key is before the body's, the body's before the header's.
fn sources<'c>(
    config: &'c Config,
    header: Option<&str>,
    body: &Body<'_>,
) -> Result<Vec<Option<&'c Source>>, BadRequestReason> {
    let of_all = body.write_key.as_str().filter(|key| !key.is_empty());
    let mut any_key = header.is_some() || body.write_key.text().is_some();
    let mut sources = Vec::with_capacity(body.messages.len());
    for message in &body.messages {
        let own = own_key(message);
        any_key |= own.is_some();
        let key = own.as_deref().or(of_all.as_deref()).or(header);
        sources.push(
            key.and_then(|key| config.source_index(key)).and_then(|at| config.sources.get(at)),
        );
    }
    let known = sources.iter().any(Option::is_some);
    if !any_key || (config.reject_unknown_write_key && !known && !sources.is_empty()) {
        return Err(BadRequestReason::InvalidWriteKey);
    }
    Ok(sources)
}

fn own_key<'a>(message: &Message<'a>) -> Option<std::borrow::Cow<'a, str>> {
    message.write_key.as_str().filter(|key| !key.is_empty())
}

struct To<'d, D> {
    destination: usize,
    destinations: &'d mut D,
}

impl<D: Destinations> Sink for To<'_, D> {
    fn event(&mut self, collection: &str, write: &mut Write<'_>) -> bool {
        self.destinations.event(self.destination, collection, write)
    }
}
