//! Interfaces from /proc/PID/net/dev. Pure but for the reading.

use super::Interface;

/// The interfaces that a process sees, loopback left out.
pub fn of_process(pid: &str) -> Vec<Interface> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
}

fn parse(text: &str) -> Vec<Interface> {
    let line = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let four = |from: usize| counters.get(from..from + 4).and_then(|c| c.try_into().ok());
        Some(Interface { name: name.trim().to_string(), received: four(0)?, sent: four(8)? })
    };
    text.lines().filter_map(line).filter(|i| i.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn counters_are_in_the_kernels_order() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo\n    \
                    lo:  10 1 0 0 0 0 0 0 10 1 0 0 0 0 0 0\n  eth0: 100 2 3 4 0 0 0 0 200 5 6 7 0 0 0 0\n";
        let found = super::parse(text);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].received, found[0].sent), ([100, 2, 3, 4], [200, 5, 6, 7]));
    }
}
