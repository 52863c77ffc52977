//! Termination messages: what a container left in its message file, or the end of its log.

use crate::observed::Container;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Most bytes of a message file (upstream's MaxContainerTerminationMessageLength).
const MAX_MESSAGE: u64 = 4096;
/// Most bytes and lines taken from a log.
const MAX_LOG: u64 = 2048;
const MAX_LOG_LINES: usize = 80;

/// Adds the termination message to a container that has ended.
pub fn add_message(container: &mut Container) {
    if container.recorded.termination_path.is_empty() {
        return;
    }
    let path = &container.recorded.termination_path;
    let from_file = container
        .mounts
        .iter()
        .find(|(inside, _)| inside == path)
        .and_then(|(_, host)| head(Path::new(host)).ok())
        .filter(|text| !text.is_empty());
    let message = from_file.or_else(|| {
        let fall_back = container.recorded.fallback_to_logs && container.exit_code != 0;
        fall_back.then(|| tail_of_log(Path::new(&container.log_path)).ok()).flatten()
    });
    if let Some(message) = message {
        container.message = message;
    }
}

fn head(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_MESSAGE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a CRI log without their time stamps.
fn tail_of_log(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    // Time stamp and stream name take about 45 bytes of each line.
    let window = MAX_LOG + MAX_LOG_LINES as u64 * 45;
    file.seek(SeekFrom::Start(size.saturating_sub(window)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let skip = usize::from(size > window);
    let mut out = String::new();
    let lines: Vec<&str> = text.lines().skip(skip).collect();
    for line in &lines[lines.len().saturating_sub(MAX_LOG_LINES)..] {
        let mut parts = line.splitn(4, ' ');
        let (Some(_), Some(_), Some(tag), Some(content)) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        out.push_str(content);
        if tag.starts_with('F') {
            out.push('\n');
        }
    }
    let limit = usize::try_from(MAX_LOG).unwrap_or(usize::MAX);
    let mut from = out.len().saturating_sub(limit);
    while !out.is_char_boundary(from) {
        from += 1;
    }
    Ok(out[from..].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_taken_without_its_stamps() {
        let path = std::env::temp_dir().join(format!("skeg-tail-{}", std::process::id()));
        let stamp = "2026-01-01T00:00:00.000000000Z";
        std::fs::write(&path, format!("{stamp} stdout F one\n{stamp} stderr P tw\n{stamp} stderr F o\n")).unwrap();
        let tail = tail_of_log(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(tail, "one\ntwo\n");
    }
}
