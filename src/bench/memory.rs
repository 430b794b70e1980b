//! What memory the process takes, where the system says so (Linux).

/// Resident memory of the process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    /// The most there ever was, since the start or the last [`reset_peak`].
    pub peak: u64,
    /// Of its own now: heap and stacks.
    pub anonymous: u64,
    /// Pages of mapped files now, such as a model's.
    pub file: u64,
}

impl Resident {
    /// Without `bytes` of the process's own that were resident all the time.
    pub fn without(self, bytes: usize) -> Resident {
        Resident {
            peak: self.peak.saturating_sub(bytes as u64),
            anonymous: self.anonymous.saturating_sub(bytes as u64),
            ..self
        }
    }
}

/// What the process takes; `None` where the system does not tell.
pub fn resident() -> Option<Resident> {
    parse(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Makes the peak what is resident now. Returns whether that went.
pub fn reset_peak() -> bool {
    // 5 resets the peak resident size (proc(5)).
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Reads the text of `/proc/self/status`.
fn parse(status: &str) -> Option<Resident> {
    let kilobytes = |key: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        let number = line.trim_start_matches(':').trim().strip_suffix("kB")?;
        number.trim().parse().ok()
    };
    Some(Resident {
        peak: kilobytes("VmHWM")? * 1024,
        anonymous: kilobytes("RssAnon")? * 1024,
        file: kilobytes("RssFile")? * 1024,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_writes() {
        let status = "Name:\tkatari\nVmHWM:\t    5120 kB\nVmRSS:\t 3072 kB\nRssAnon:\t    1024 kB\nRssFile:\t    2048 kB\n";
        let expected = Resident {
            peak: 5120 * 1024,
            anonymous: 1024 * 1024,
            file: 2048 * 1024,
        };
        assert_eq!(parse(status), Some(expected));
        assert_eq!(parse("Name:\tkatari\n"), None);
    }
}
