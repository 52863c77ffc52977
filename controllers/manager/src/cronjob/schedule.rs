//! Cron schedules as Kubernetes writes them: five fields, `@hourly` and its like, `@every 1h30m`; in a time zone.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use skeg_controller_runtime::Timestamp;

/// Why a schedule cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("unparseable schedule {0:?}: {1}")]
    Schedule(String, String),
    #[error("unknown time zone {0:?}")]
    TimeZone(String),
}

/// A schedule in its zone.
pub struct Schedule {
    kind: Kind,
    zone: Tz,
}

enum Kind {
    Cron(Box<Cron>),
    /// Each so many seconds from the anchor.
    Every(i64),
}

impl Schedule {
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Self, Error> {
        let bad = |why: String| Error::Schedule(text.to_owned(), why);
        let zone = match zone {
            None => Tz::UTC,
            Some(name) => name.parse().map_err(|_| Error::TimeZone(name.to_owned()))?,
        };
        let trimmed = text.trim();
        let kind = match trimmed.strip_prefix("@every ") {
            Some(duration) => Kind::Every(seconds(duration).ok_or_else(|| bad("bad duration".to_owned()))?),
            None => {
                let fields = match trimmed {
                    "@yearly" | "@annually" => "0 0 1 1 *",
                    "@monthly" => "0 0 1 * *",
                    "@weekly" => "0 0 * * 0",
                    "@daily" | "@midnight" => "0 0 * * *",
                    "@hourly" => "0 * * * *",
                    other => other,
                };
                if fields.split_whitespace().count() != 5 {
                    return Err(bad("expected exactly 5 fields".to_owned()));
                }
                Kind::Cron(Box::new(Cron::from_str(&fields.replace('?', "*")).map_err(|e| bad(e.to_string()))?))
            }
        };
        Ok(Self { kind, zone })
    }

    /// The latest time in (after, until], and whether there were more than one.
    pub fn latest(&self, after: Timestamp, until: Timestamp) -> Option<(Timestamp, bool)> {
        match &self.kind {
            Kind::Every(step) => {
                let missed = until.duration_since(after).as_secs() / step;
                (missed > 0).then(|| (skeg_controller_runtime::clock::after(after, missed * step), missed > 1))
            }
            Kind::Cron(cron) => {
                let end = self.local(until)?;
                let latest = stamp(&cron.find_previous_occurrence(&end, true).ok()?)?;
                if latest <= after {
                    return None;
                }
                let before = stamp(&cron.find_previous_occurrence(&self.local(latest)?, false).ok()?);
                Some((latest, before.is_some_and(|t| t > after)))
            }
        }
    }

    /// The first time after `time`; `anchor` is where an interval is counted from.
    pub fn next(&self, anchor: Timestamp, time: Timestamp) -> Option<Timestamp> {
        match &self.kind {
            Kind::Every(step) => {
                let passed = time.duration_since(anchor).as_secs().max(0) / step;
                Some(skeg_controller_runtime::clock::after(anchor, (passed + 1) * step))
            }
            Kind::Cron(cron) => stamp(&cron.find_next_occurrence(&self.local(time)?, false).ok()?),
        }
    }

    fn local(&self, time: Timestamp) -> Option<DateTime<Tz>> {
        let utc = DateTime::<Utc>::from_timestamp(time.as_second(), 0)?;
        Some(utc.with_timezone(&self.zone))
    }

    /// As the zone's clocks show it.
    pub fn rfc3339(&self, time: Timestamp) -> String {
        self.local(time).map_or_else(String::new, |t| t.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
    }
}

fn stamp(time: &DateTime<Tz>) -> Option<Timestamp> {
    Timestamp::from_second(time.timestamp()).ok()
}

/// A Go duration in whole seconds, at least one.
fn seconds(text: &str) -> Option<i64> {
    let mut rest = text.trim();
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (total > 0.0).then(|| (total as i64).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_latest_missed_time_counts_and_more_are_noticed() {
        let hourly = Schedule::parse("0 * * * *", None).unwrap();
        let day = |h: &str| at(&format!("2026-01-01T{h}Z"));
        assert_eq!(hourly.latest(day("00:30:00"), day("00:59:59")), None);
        assert_eq!(hourly.latest(day("00:30:00"), day("01:00:00")), Some((day("01:00:00"), false)));
        assert_eq!(hourly.latest(day("00:30:00"), day("05:10:00")), Some((day("05:00:00"), true)));
        assert_eq!(hourly.next(day("00:00:00"), day("01:00:00")), Some(day("02:00:00")));
    }

    #[test]
    fn zones_shift_the_schedule_and_intervals_count_from_their_anchor() {
        let tokyo = Schedule::parse("0 9 * * *", Some("Asia/Tokyo")).unwrap();
        assert_eq!(
            tokyo.next(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z")),
            Some(at("2026-01-02T00:00:00Z"))
        );
        let every = Schedule::parse("@every 1h30m", None).unwrap();
        assert_eq!(
            every.next(at("2026-01-01T00:00:00Z"), at("2026-01-01T02:00:00Z")),
            Some(at("2026-01-01T03:00:00Z"))
        );
    }

    #[test]
    fn day_of_month_and_day_of_week_are_alternatives() {
        let either = Schedule::parse("0 0 13 * 5", None).unwrap();
        // 2026-01-02 is a Friday.
        assert_eq!(
            either.next(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z")),
            Some(at("2026-01-02T00:00:00Z"))
        );
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        assert!(matches!(Schedule::parse("* * * *", None), Err(Error::Schedule(..))));
        assert!(matches!(Schedule::parse("61 * * * *", None), Err(Error::Schedule(..))));
        assert_eq!(
            Schedule::parse("* * * * *", Some("Mars/Base")).err(),
            Some(Error::TimeZone("Mars/Base".to_owned()))
        );
    }
}
