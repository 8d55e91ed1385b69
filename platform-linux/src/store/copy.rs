//! A store file seen through a copy in memory: everything can be tried, nothing is written.
//!
//! redb repairs a file while opening it, which is right after a power cut and wrong for a
//! damaged file that somebody has to look at. So a store is first opened and checked through
//! this backend: reads come from the file until a page is written, writes stay here. Only a
//! file that passed is opened for real.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// Bytes of one page of the copy. Any size is right; this one is redb's own.
const PAGE_BYTES: usize = 4096;

/// The backend.
#[derive(Debug)]
pub struct Copy {
    file: File,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Length as redb sees it, bytes.
    len: u64,
    /// How much of the file still shows, bytes: what was once cut off reads as zeros.
    file_len: u64,
    /// Pages written since the open.
    pages: HashMap<u64, Box<[u8; PAGE_BYTES]>>,
}

impl Copy {
    /// A copy of this file as it is now.
    ///
    /// # Errors
    /// Of the file system.
    pub fn of(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Copy { file, state: Mutex::new(State { len, file_len: len, pages: HashMap::new() }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in another thread cannot leave a page half written: each is one copy.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads one page: as written, else as in the file, else zeros.
    fn page(&self, state: &State, number: u64) -> io::Result<[u8; PAGE_BYTES]> {
        if let Some(page) = state.pages.get(&number) {
            return Ok(**page);
        }
        let mut page = [0; PAGE_BYTES];
        let start = number * PAGE_BYTES as u64;
        let in_file = state.file_len.saturating_sub(start).min(PAGE_BYTES as u64) as usize;
        self.file.read_exact_at(&mut page[..in_file], start)?;
        Ok(page)
    }
}

impl StorageBackend for Copy {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > state.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, within, range) in parts(offset, out.len()) {
            let page = self.page(&state, number)?;
            let count = range.len();
            out[range].copy_from_slice(&page[within..within + count]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        if len < state.len {
            state.file_len = state.file_len.min(len);
            state.pages.retain(|number, _| number * (PAGE_BYTES as u64) < len);
            let cut = (len % PAGE_BYTES as u64) as usize;
            if let Some(page) = state.pages.get_mut(&(len / PAGE_BYTES as u64)) {
                page[cut..].fill(0);
            }
        }
        state.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > state.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, within, range) in parts(offset, data.len()) {
            let mut page = self.page(&state, number)?;
            let count = range.len();
            page[within..within + count].copy_from_slice(&data[range]);
            state.pages.insert(number, Box::new(page));
        }
        Ok(())
    }
}

/// Splits a range of the file at page borders: page number, offset in it, range of the buffer.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % PAGE_BYTES as u64) as usize;
        let count = (PAGE_BYTES - within).min(len - done);
        let range = done..done + count;
        done += count;
        Some((at / PAGE_BYTES as u64, within, range))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u16, Vec<u8>),
        Resize(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (any::<u16>(), proptest::collection::vec(any::<u8>(), 0..9000))
                .prop_map(|(at, data)| Step::Write(at, data)),
            any::<u16>().prop_map(Step::Resize),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_copy_reads_like_the_file_would_and_the_file_stays_as_it_was(
            start in proptest::collection::vec(any::<u8>(), 0..20_000),
            steps in proptest::collection::vec(step(), 0..12),
        ) {
            let mut file = tempfile::tempfile_in("/dev/shm").expect("/dev/shm is there");
            io::Write::write_all(&mut file, &start).expect("there is room");
            let copy = Copy::of(file.try_clone().expect("descriptors are left")).expect("it has a length");
            let mut model = start.clone();
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        let end = usize::from(at) + data.len();
                        prop_assert_eq!(copy.write(u64::from(at), &data).is_ok(), end <= model.len());
                        if end <= model.len() {
                            model[usize::from(at)..end].copy_from_slice(&data);
                        }
                    }
                    Step::Resize(len) => {
                        prop_assert!(copy.set_len(u64::from(len)).is_ok());
                        model.resize(usize::from(len), 0);
                    }
                }
                let mut read = vec![0xEE; model.len()];
                prop_assert!(copy.read(0, &mut read).is_ok());
                prop_assert_eq!(&read, &model);
                prop_assert!(copy.read(1, &mut read).is_err() || model.is_empty());
            }
            let mut left = vec![0; start.len()];
            file.read_exact_at(&mut left, 0).expect("it is as long as before");
            prop_assert_eq!(left, start);
        }
    }
}
