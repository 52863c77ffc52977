//! CronJobs.

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use super::job_spec;
use crate::apps::name_warning;
use crate::builder::Def;
use crate::check::Report;
use crate::columns::{self, AGE, NAME, Table, containers, count, int, name, text, wide};
use crate::core::podspec::defaults;
use crate::json::{Read, Write};
use crate::rules::{Part, Rules};
use crate::spec::ResourceSpec;

const ZONE_IN_SCHEDULE: &str = "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
    https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details";

pub fn spec() -> ResourceSpec {
    Def::new("batch", "v1", "cronjobs", "CronJob")
        .short(&["cj"])
        .categories(&["all"])
        .status(Part::STATUS)
        .columns(Table {
            columns: const {
                &[
                    NAME,
                    text("Schedule"),
                    text("Timezone"),
                    ("Suspend", "boolean", "", 0),
                    int("Active"),
                    text("Last Schedule"),
                    AGE,
                    wide("Containers"),
                    wide("Images"),
                    wide("Selector"),
                ]
            },
            cells: |object, row| {
                let [names, images] = containers(object, "spec.jobTemplate.spec.template.spec");
                let suspend = match object.at("spec.suspend").as_bool() {
                    Some(true) => "True",
                    Some(false) => "False",
                    None => "<unset>",
                };
                let last = match object.has("status.lastScheduleTime") {
                    true => row.since(object, "status.lastScheduleTime"),
                    false => "<none>".into(),
                };
                vec![
                    name(object),
                    object.text("spec.schedule").into(),
                    object.opt_text("spec.timeZone").unwrap_or("<none>").into(),
                    suspend.into(),
                    count(object, "status.active"),
                    last.into(),
                    row.age(object),
                    names,
                    images,
                    columns::selector(object.at("spec.jobTemplate.spec.selector")).into(),
                ]
            },
        })
        .rules(Rules {
            defaults: |_, job| {
                job.default_zero("spec.concurrencyPolicy", "Allow");
                job.default_to("spec.suspend", false);
                job.default_to("spec.successfulJobsHistoryLimit", 3);
                job.default_to("spec.failedJobsHistoryLimit", 1);
                if let Some(spec) = job.at_mut("spec.jobTemplate.spec") {
                    defaults::template(spec, "template");
                    job_spec::pattern_defaults(spec);
                }
            },
            create: |_, job| job.set("status", json!({})),
            check: |job| {
                let mut e = check(job, None);
                let own = job.text("metadata.name");
                if own.len() > 52 {
                    e.invalid(&Path::new("metadata").child("name"), own, "must be no more than 52 characters");
                }
                e
            },
            check_update: |job, old| check(job, Some(old)),
            warn: |job, old| {
                let mut all = name_warning(job, old);
                let path = Path::new("spec").child("jobTemplate").child("spec");
                all.extend(job_spec::warnings(&path, job.at("spec.jobTemplate.spec"), job, old));
                if old.is_some() && job.text("spec.schedule").contains("TZ") {
                    all.push(ZONE_IN_SCHEDULE.into());
                }
                all
            },
            pod_spec: "spec.jobTemplate.spec.template.spec",
            ..Rules::BASE
        })
        .build()
}

fn check(job: &Value, old: Option<&Value>) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = job.at("spec");
    let text = spec.text("schedule");
    if e.need(&path.child("schedule"), text) {
        schedule(&mut e, &path.child("schedule"), spec, old);
    }
    e.non_negatives(&path, spec, &["startingDeadlineSeconds"]);
    let zone = spec.opt_text("timeZone");
    if old.is_none_or(|old| old.opt_text("spec.timeZone") != zone) {
        time_zone(&mut e, &path.child("timeZone"), zone);
    }
    let policy = spec.text("concurrencyPolicy");
    e.one_of(&path.child("concurrencyPolicy"), policy, &["Allow", "Forbid", "Replace"]);
    let at = path.child("jobTemplate").child("spec");
    let template = spec.at("jobTemplate.spec");
    job_spec::check(&mut e, &at, template);
    if template.has("selector") {
        let value = template.at("selector").clone();
        e.invalid(&at.child("selector"), value, "`selector` will be auto-generated");
    }
    if template.flag("manualSelector") {
        e.not_supported(&at.child("manualSelector"), true, &["nil", "false"]);
    }
    e.non_negatives(&path, spec, &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"]);
    e
}

fn schedule(e: &mut ErrorList, at: &Path, spec: &Value, old: Option<&Value>) {
    let text = spec.text("schedule");
    if let Err(problem) = parse(text) {
        e.invalid(at, text, problem);
    }
    let had_zone = old.is_some_and(|old| old.text("spec.schedule").contains("TZ"));
    if text.contains("TZ") {
        if !had_zone {
            e.invalid(at, text, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
        } else if spec.has("timeZone") {
            e.invalid(at, text, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
        }
    }
}

/// (minimum, maximum, names) of the five fields.
const FIELDS: [(u32, u32, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

/// The standard parser of robfig/cron, with its words for what is wrong.
fn parse(spec: &str) -> Result<(), String> {
    let mut text = spec;
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        text = match text.split_once(' ') {
            Some((_, rest)) => rest.trim(),
            None => return Err("no space after timezone".into()),
        };
    }
    if let Some(descriptor) = text.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        if let Some(every) = text.strip_prefix("@every ") {
            let good = duration(every);
            return if good {
                Ok(())
            } else {
                Err(format!("failed to parse duration {text}: time: invalid duration {every:?}"))
            };
        }
        return match known.contains(&descriptor) {
            true => Ok(()),
            false => Err(format!("unrecognized descriptor: {text}")),
        };
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (field, &(min, max, names)) in fields.iter().zip(&FIELDS) {
        for range in field.split(',').filter(|range| !range.is_empty()) {
            parse_range(range, min, max, names)?;
        }
    }
    Ok(())
}

fn duration(text: &str) -> bool {
    let text = text.trim_start_matches(['-', '+']);
    let units = ["ns", "us", "µs", "ms", "s", "m", "h"];
    let mut rest = text;
    if rest == "0" {
        return true;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        if number.parse::<f64>().is_err() || !units.contains(&&after[..unit]) {
            return false;
        }
        rest = &after[unit..];
    }
    !text.is_empty()
}

fn parse_range(text: &str, min: u32, max: u32, names: &[&str]) -> Result<(), String> {
    let number = |part: &str| -> Result<u32, String> {
        if let Some(index) = names.iter().position(|name| *name == part.to_lowercase()) {
            return Ok(index as u32 + min);
        }
        let value: i64 = part
            .parse()
            .map_err(|_| format!("failed to parse int from {part}: strconv.Atoi: parsing {part:?}: invalid syntax"))?;
        u32::try_from(value).map_err(|_| format!("negative number ({value}) not allowed: {part}"))
    };
    let steps: Vec<&str> = text.split('/').collect();
    let bounds: Vec<&str> = steps[0].split('-').collect();
    let star = bounds[0] == "*" || bounds[0] == "?";
    let start = if star { min } else { number(bounds[0])? };
    let mut end = match (star, bounds.len()) {
        (true, _) => max,
        (false, 1) => start,
        (false, 2) => number(bounds[1])?,
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match steps.len() {
        1 => 1,
        2 => {
            if bounds.len() == 1 && !star {
                end = max;
            }
            number(steps[1])?
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if start < min {
        return Err(format!("beginning of range ({start}) below minimum ({min}): {text}"));
    }
    if end > max {
        return Err(format!("end of range ({end}) above maximum ({max}): {text}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok(())
}

fn time_zone(e: &mut ErrorList, at: &Path, zone: Option<&str>) {
    let Some(zone) = zone else { return };
    if zone.is_empty() {
        e.invalid(at, zone, "timeZone must be nil or non-empty string");
        return;
    }
    let allowed = |part: &str| {
        (1..=14).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte))
    };
    for part in zone.split('/') {
        if part == "." || part == ".." || part.starts_with('-') || !allowed(part) {
            e.invalid(at, zone, format!("unknown time zone {zone}"));
            return;
        }
    }
    if zone.eq_ignore_ascii_case("Local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        e.invalid(at, zone, detail);
    }
    if zone.parse::<chrono_tz::Tz>().is_err() && zone != "UTC" {
        e.invalid(at, zone, format!("unknown time zone {zone}"));
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn schedules_are_read_as_upstream() {
        for (schedule, problem) in [
            ("*/5 * * * *", ""),
            ("0 0 1 JAN-mar mon", ""),
            ("@hourly", ""),
            ("@every 1h30m", ""),
            ("@often", "unrecognized descriptor: @often"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
        ] {
            assert_eq!(parse(schedule).err().unwrap_or_default(), problem, "{schedule}");
        }
    }
}
