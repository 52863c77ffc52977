//! Makes bad inputs from good ones and runs a reader over them. Owns the mutations and the time of a run; what must hold is the
//! reader's affair. The same seed makes the same inputs.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// Bytes and words that readers treat in their own way.
const WORDS: [&[u8]; 24] = [
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"-0",
    b"1e999",
    b"9223372036854775808",
    b"-1",
    b"0x10",
    b"\\u0000",
    b"\\ud800",
    b"$patch",
    b"\xff\xff\xff\xff\x0f",
    b"\x80\x80\x01",
    b"=",
];

/// A small generator of numbers, the same on every machine.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// Part of the bytes, rarely a long one.
    fn part(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let most = if self.below(8) == 0 { length } else { 16 };
        start..(start + self.below(most + 1)).min(length)
    }
}

fn mutate(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    for _ in 0..=numbers.below(4) {
        let length = bytes.len();
        match numbers.below(7) {
            0 if length > 0 => bytes[numbers.below(length)] ^= 1 << numbers.below(8),
            1 if length > 0 => bytes[numbers.below(length)] = numbers.next() as u8,
            2 => drop(bytes.drain(numbers.part(length))),
            3 => {
                let copy = bytes[numbers.part(length)].to_vec();
                let at = numbers.below(length + 1);
                bytes.splice(at..at, copy);
            }
            4 => {
                let (at, word) = (numbers.below(length + 1), WORDS[numbers.below(WORDS.len())]);
                bytes.splice(at..at, word.iter().copied());
            }
            5 => {
                let (part, word) = (numbers.part(length), WORDS[numbers.below(WORDS.len())]);
                bytes.splice(part, word.iter().copied());
            }
            _ => {
                let (part, at) = (numbers.part(length), numbers.below(length + 1));
                let many = bytes[part].repeat(1 + numbers.below(40));
                bytes.splice(at..at, many);
            }
        }
    }
}

/// Runs `reader` over the seeds and what comes of them, for a while. An input that it panics at, or takes seconds for, is shown.
pub fn fuzz(seeds: &[&[u8]], reader: impl Fn(&[u8])) {
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<f64>().ok());
    let seconds = setting("SKEG_FUZZ_SECONDS").unwrap_or(1.0);
    let mut numbers = Numbers(setting("SKEG_FUZZ_SEED").map_or(0x9e37_79b9_7f4a_7c15, |seed| seed as u64 | 1));
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let (mut count, mut good) = (0, seeds.iter().map(|seed| seed.to_vec()).collect::<Vec<_>>());
    // At least one round, however slow the machine is.
    while count < seeds.len() + 100 || Instant::now() < end {
        let mut bytes = good[if count < seeds.len() { count } else { numbers.below(good.len()) }].clone();
        if count >= seeds.len() {
            mutate(&mut bytes, &mut numbers);
        }
        bytes.truncate(1 << 16);
        let begun = Instant::now();
        let shown = || String::from_utf8_lossy(&bytes).into_owned();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| reader(&bytes))) {
            eprintln!("input {count}: {:?}\nas text: {}", bytes, shown());
            resume_unwind(panic);
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "input {count} took {:?}: {}", begun.elapsed(), shown());
        count += 1;
        // Some of what was made is made more of.
        if good.len() < 64 && numbers.below(50) == 0 {
            good.push(bytes);
        }
    }
}
