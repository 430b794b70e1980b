//! Memory for weights, in large pages where the system has them.

use memmap2::MmapMut;

/// Zeroed memory of its own, from the system in whole pages.
pub(super) struct Pages(MmapMut);

impl Pages {
    /// `len` bytes. They take memory only when they are first written.
    ///
    /// # Errors
    /// Where the system does not grant them.
    pub(super) fn reserve(len: usize) -> std::io::Result<Pages> {
        let map = MmapMut::map_anon(len.max(1))?;
        // A core that reads weights at the memory's speed meets a new page of 4 KiB every few
        // hundred nanoseconds. Where the system does not know the advice nothing is lost but that.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Pages(map))
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// All of it, to write.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_address_space_holds_is_refused() {
        assert!(Pages::reserve(usize::MAX / 2).is_err());
        assert!(Pages::reserve(0).is_ok());
    }

    #[test]
    fn reserving_takes_no_memory() {
        const LEN: usize = 1 << 30;
        // The second number of statm, in pages (proc(5)).
        let resident = || -> Option<usize> {
            let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
            statm.split_whitespace().nth(1)?.parse().ok()
        };
        let before = resident();
        let pages = Pages::reserve(LEN).unwrap();
        // Other tests take and give memory meanwhile, but not so much.
        if let (Some(before), Some(after)) = (before, resident()) {
            assert!(after < before + LEN / 4096 / 2, "{before} {after}");
        }
        assert_eq!(pages.bytes()[LEN - 1], 0);
    }
}
