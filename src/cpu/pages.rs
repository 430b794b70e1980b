//! Memory for weights, in large pages where the system has them.

use memmap2::MmapMut;

/// Zeroed memory of its own.
pub(super) enum Pages {
    /// From the system, in whole pages.
    Mapped(MmapMut),
    /// From the allocator, where the system gives none.
    Allocated(Vec<u8>),
}

impl Pages {
    /// `len` bytes.
    pub(super) fn new(len: usize) -> Pages {
        match MmapMut::map_anon(len) {
            Ok(map) => {
                // A core that reads weights at the memory's speed meets a new page of 4 KiB every
                // few hundred nanoseconds. Where the system does not know the advice nothing is
                // lost but that.
                #[cfg(target_os = "linux")]
                let _ = map.advise(memmap2::Advice::HugePage);
                Pages::Mapped(map)
            }
            Err(_) => Pages::Allocated(vec![0; len]),
        }
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Pages::Mapped(map) => map,
            Pages::Allocated(bytes) => bytes,
        }
    }

    /// All of it, to write.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Pages::Mapped(map) => map,
            Pages::Allocated(bytes) => bytes,
        }
    }
}
