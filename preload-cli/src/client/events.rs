//! Server-sent events, as far as agents send them. Pure: bytes in, events out.
//!
//! Follows the WHATWG event stream format for `event`, `data` and comments; `id` and `retry` are
//! skipped. An event is bounded: a line or body longer than [`MAX_EVENT_BYTES`] ends the stream.

/// The longest event accepted; a status of a thousand nodes takes about 300 KiB.
const MAX_EVENT_BYTES: usize = 4 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// `message` when the sender named none.
    pub(super) name: String,
    /// The lines of its data, joined by newlines.
    pub(super) data: String,
}

/// An event was longer than [`MAX_EVENT_BYTES`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Takes the stream apart.
#[derive(Debug, Default)]
pub(super) struct EventParser {
    line: Vec<u8>,
    name: String,
    data: String,
}

impl EventParser {
    /// Takes the next bytes of the stream; returns the events that they complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.len() + self.data.len() > MAX_EVENT_BYTES {
                return Err(TooLong);
            }
            if self.line.last() == Some(&b'\n') {
                let line = std::mem::take(&mut self.line);
                events.extend(self.take_line(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r'])));
            }
        }
        Ok(events)
    }

    fn take_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let data = std::mem::take(&mut self.data);
            let name = if name.is_empty() { "message".to_owned() } else { name };
            let dispatched = !(data.is_empty() && name == "message");
            return dispatched.then_some(Event { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &[u8] =
        b": keep-alive\n\nevent: progress\r\ndata: {\"a\":1}\r\n\r\nid: 7\ndata: x\ndata:y\n\nevent: end\n\n";

    fn expected() -> Vec<Event> {
        [("progress", "{\"a\":1}"), ("message", "x\ny"), ("end", "")]
            .map(|(name, data)| Event { name: name.to_owned(), data: data.to_owned() })
            .into()
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = EventParser::default();
        let piece = vec![b'x'; 1 << 20];
        let refused = (0..8).any(|_| parser.push(&piece) == Err(TooLong));
        assert!(refused);
    }

    proptest! {
        #[test]
        fn events_are_the_same_wherever_the_network_cuts_them(cuts in prop::collection::vec(1usize..9, 0..40)) {
            let mut parser = EventParser::default();
            let (mut events, mut rest) = (Vec::new(), STREAM);
            for cut in cuts {
                let (piece, left) = rest.split_at(cut.min(rest.len()));
                events.extend(parser.push(piece).unwrap());
                rest = left;
            }
            events.extend(parser.push(rest).unwrap());
            prop_assert_eq!(events, expected());
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = EventParser::default().push(&bytes);
        }
    }
}
