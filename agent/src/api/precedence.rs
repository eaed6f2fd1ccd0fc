//! How much a pull matters beside the others of its node, as people and programs write it.
//!
//! Owns the two words, `priority` and `deadline`, and what they mean to the swarm. A deadline is a moment: where
//! it is written as a time from now, now is when it is read.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use coordinatorless_p2p::{Error, ErrorKind, Precedence, Result};
use humantime_serde::re::humantime;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// `low`, `normal`, `high`, or any whole number between -1000 and 1000: the higher goes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(i16);

const NAMED: [(&str, Priority); 3] =
    [("low", Priority(-10)), ("normal", Priority(0)), ("high", Priority(10))];
const PRIORITY_MOST: i64 = 1000;
/// A deadline further away is a mistake, such as milliseconds for seconds.
const DEADLINE_MOST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

impl Priority {
    fn of_number(number: i64) -> Result<Self> {
        let fits = (-PRIORITY_MOST..=PRIORITY_MOST).contains(&number);
        let number = i16::try_from(number).ok().filter(|_| fits);
        number.map(Self).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("a priority is at most {PRIORITY_MOST} either way"))
        })
    }

    fn name(self) -> Option<&'static str> {
        NAMED.iter().find(|(_, priority)| *priority == self).map(|(name, _)| *name)
    }
}

impl FromStr for Priority {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let named = NAMED.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        match (named, text.parse()) {
            (Some((_, priority)), _) => Ok(*priority),
            (None, Ok(number)) => Self::of_number(number),
            (None, Err(_)) => {
                let text = format!("{text:?} is not a priority; write low, normal, high or a whole number");
                Err(Error::new(ErrorKind::Invalid, text))
            }
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

impl Serialize for Priority {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.name() {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_i16(self.0),
        }
    }
}

/// A number or a text, as JSON has them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written<N> {
    Number(N),
    Text(String),
}

impl<'de> Deserialize<'de> for Priority {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let read = match Written::<i64>::deserialize(deserializer) {
            Ok(Written::Number(number)) => Self::of_number(number),
            Ok(Written::Text(text)) => text.parse(),
            Err(_) => return Err(de::Error::custom("a priority is low, normal, high or a whole number")),
        };
        read.map_err(de::Error::custom)
    }
}

/// When something is needed: seconds from now, `"10m"`, or a moment such as `"2026-11-25T09:30:00Z"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(SystemTime);

impl Deadline {
    /// So long from now.
    ///
    /// # Errors
    /// `Invalid` when that is no moment within ten years.
    pub fn after(wait: Duration) -> Result<Self> {
        let moment = SystemTime::now().checked_add(wait).filter(|_| wait <= DEADLINE_MOST);
        let far = || Error::new(ErrorKind::Invalid, "a deadline is at most ten years away");
        // As it is told to others, so that it is equal to itself when it comes back.
        moment.map(|at| Self(whole_milliseconds(at))).ok_or_else(far)
    }

    fn after_seconds(seconds: f64) -> Result<Self> {
        let wait = Duration::try_from_secs_f64(seconds).ok().filter(|wait| !wait.is_zero());
        let wait = wait.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("a deadline {seconds} seconds from now cannot be kept"))
        });
        Self::after(wait?)
    }

    /// How long until then; nothing when it is past.
    pub fn left(self) -> Duration {
        self.0.duration_since(SystemTime::now()).unwrap_or_default()
    }
}

fn whole_milliseconds(at: SystemTime) -> SystemTime {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_millis(since.as_millis() as u64)
}

impl FromStr for Deadline {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Ok(seconds) = text.parse::<f64>() {
            return Self::after_seconds(seconds);
        }
        if let Ok(wait) = humantime::parse_duration(text) {
            return Self::after_seconds(wait.as_secs_f64());
        }
        match chrono::DateTime::parse_from_rfc3339(text) {
            Ok(moment) => Ok(Self(whole_milliseconds(moment.into()))),
            Err(_) => Err(Error::new(
                ErrorKind::Invalid,
                format!("{text:?} is not a deadline; write for example 10m, or 2026-11-25T09:30:00Z"),
            )),
        }
    }
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis(self.0).fmt(f)
    }
}

impl Serialize for Deadline {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Deadline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let read = match Written::<f64>::deserialize(deserializer) {
            Ok(Written::Number(seconds)) => Self::after_seconds(seconds),
            Ok(Written::Text(text)) => text.parse(),
            Err(_) => {
                return Err(de::Error::custom("a deadline is seconds from now, a duration or a moment"));
            }
        };
        read.map_err(de::Error::custom)
    }
}

/// What both together mean to the swarm.
pub fn precedence(priority: Priority, deadline: Option<Deadline>) -> Precedence {
    Precedence { priority: priority.0, deadline: deadline.map(|at| at.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_are_names_or_numbers_and_come_back_as_they_went() {
        for (written, read) in
            [("\"low\"", -10), ("\"HIGH\"", 10), ("0", 0), ("-1000", -1000), ("7", 7), ("\"7\"", 7)]
        {
            let priority: Priority = serde_json::from_str(written).unwrap();
            assert_eq!(priority, Priority(read), "{written}");
            let again = serde_json::from_str(&serde_json::to_string(&priority).unwrap()).unwrap();
            assert_eq!(priority, again, "{written}");
        }
        assert_eq!(serde_json::to_string(&Priority(10)).unwrap(), "\"high\"");
        for wrong in ["\"urgent\"", "1001", "-99999999999", "1.5", "true", "null"] {
            let error = serde_json::from_str::<Priority>(wrong).unwrap_err().to_string();
            assert!(error.contains("priority"), "{wrong}: {error}");
        }
    }

    #[test]
    fn deadlines_are_durations_or_moments_and_come_back_as_they_went() {
        let about = |deadline: Deadline, seconds: u64| {
            let left = deadline.left().as_secs_f64();
            (left - seconds as f64).abs() < 60.0
        };
        for (written, seconds) in [("600", 600), ("\"10m\"", 600), ("\"600\"", 600), ("\"1h 5m\"", 3900)] {
            let deadline: Deadline = serde_json::from_str(written).unwrap();
            assert!(about(deadline, seconds), "{written}: {deadline}");
            let again: Deadline = serde_json::from_str(&serde_json::to_string(&deadline).unwrap()).unwrap();
            assert_eq!(deadline, again, "{written}");
        }
        let here: Deadline = "2026-11-25T10:30:00+01:00".parse().unwrap();
        assert_eq!(here, "2026-11-25T09:30:00Z".parse().unwrap());
        assert_eq!(here.to_string(), "2026-11-25T09:30:00.000Z");
        for wrong in ["0", "-5", "\"soon\"", "\"2026-11-25\"", "1e300", "true", "\"9999999999999\""] {
            let error = serde_json::from_str::<Deadline>(wrong).unwrap_err().to_string();
            assert!(error.contains("deadline"), "{wrong}: {error}");
        }
    }
}
