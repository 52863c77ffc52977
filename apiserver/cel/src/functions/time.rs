//! Parts of timestamps, in UTC or in a named zone, and of durations.

use chrono::{DateTime, Datelike, FixedOffset, TimeDelta, Timelike, Utc};

use super::Args;
use crate::eval::{Outcome, failed};
use crate::value::Value;

pub fn call<'a>(name: &str, member: bool, args: &Args<'a>) -> Option<Outcome<'a>> {
    match args {
        _ if !member => None,
        [Value::Duration(duration)] => of_duration(name, duration).map(|part| Ok(Value::Int(part))),
        [Value::Timestamp(time)] => part(name, time).map(|part| Ok(Value::Int(part))),
        [Value::Timestamp(time), Value::String(zone)] => in_zone(name, time, zone),
        _ => None,
    }
}

fn of_duration(name: &str, duration: &TimeDelta) -> Option<i64> {
    Some(match name {
        "getHours" => duration.num_hours(),
        "getMinutes" => duration.num_minutes(),
        "getSeconds" => duration.num_seconds(),
        "getMilliseconds" => duration.num_milliseconds() % 1000,
        _ => return None,
    })
}

fn in_zone<'a>(name: &str, time: &DateTime<Utc>, zone: &str) -> Option<Outcome<'a>> {
    let found = match zone.parse::<chrono_tz::Tz>() {
        Ok(zone) => part(name, &time.with_timezone(&zone)),
        Err(_) => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let (hours, minutes) = zone.trim_start_matches(['+', '-']).split_once(':')?;
            let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
            let Some(offset) = FixedOffset::east_opt(sign * seconds) else {
                return Some(failed(format!("unknown time zone {zone}")));
            };
            part(name, &time.with_timezone(&offset))
        }
    };
    found.map(|part| Ok(Value::Int(part)))
}

fn part(name: &str, time: &(impl Datelike + Timelike)) -> Option<i64> {
    Some(match name {
        "getFullYear" => i64::from(time.year()),
        "getMonth" => i64::from(time.month0()),
        "getDayOfYear" => i64::from(time.ordinal0()),
        "getDayOfMonth" => i64::from(time.day0()),
        "getDate" => i64::from(time.day()),
        "getDayOfWeek" => i64::from(time.weekday().num_days_from_sunday()),
        "getHours" => i64::from(time.hour()),
        "getMinutes" => i64::from(time.minute()),
        "getSeconds" => i64::from(time.second()),
        "getMilliseconds" => i64::from(time.nanosecond() / 1_000_000),
        _ => return None,
    })
}
