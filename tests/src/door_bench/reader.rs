//! The client of files: reads or maps one from end to end, in a process of its own whose CPU time is counted.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::Instant,
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use memmap2::Mmap;

/// The option by which the program is told to be a reader; a [`Reader`] follows.
pub const READER_OPTION: &str = "--reader";
/// Bytes of one read(2), as `cat` and loaders read.
const PIECE_BYTES: usize = 1 << 20;

/// What a reader is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// By mmap(2) rather than read(2).
    pub maps: bool,
    /// Lets the kernel forget the file's pages first, each time.
    pub discards: bool,
    /// From end to end so often.
    pub passes: u32,
    /// Which file.
    pub path: PathBuf,
}

impl Reader {
    /// As a word of a command line.
    pub fn to_argument(&self) -> String {
        format!("{}:{}:{}:{}", self.maps, self.discards, self.passes, self.path.display())
    }

    /// The opposite.
    ///
    /// # Errors
    /// `Invalid` for what is none.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::new(ErrorKind::Invalid, format!("{text:?} is no task of a reader"));
        let mut words = text.splitn(4, ':');
        let mut word = || words.next().ok_or_else(wrong);
        Ok(Self {
            maps: word()?.parse().map_err(|_| wrong())?,
            discards: word()?.parse().map_err(|_| wrong())?,
            passes: word()?.parse().map_err(|_| wrong())?,
            path: word()?.into(),
        })
    }

    /// Does it and prints the seconds that it took. Blocks.
    ///
    /// # Errors
    /// As reading.
    pub fn run(&self) -> Result<()> {
        let start = Instant::now();
        let mut sum = 0_u64;
        for _ in 0..self.passes {
            sum = sum.wrapping_add(self.pass(&self.path)?);
        }
        println!("{} {sum}", start.elapsed().as_secs_f64());
        Ok(())
    }

    fn pass(&self, path: &Path) -> Result<u64> {
        let shown = || path.display().to_string();
        let mut file = File::open(path).at(shown)?;
        if self.discards {
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
                .map_err(std::io::Error::from)
                .at(shown)?;
        }
        if self.maps {
            // SAFETY: nobody writes to or truncates the files of this benchmark.
            let map = unsafe { Mmap::map(&file) }.at(shown)?;
            return Ok(sum_of(&map));
        }
        let (mut piece, mut read) = (vec![0; PIECE_BYTES], 0);
        loop {
            match file.read(&mut piece).at(shown)? {
                0 => return Ok(read),
                n => read += n as u64,
            }
        }
    }
}

/// Every byte looked at, at the speed of memory.
fn sum_of(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    rest.iter().fold(words, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_survives_the_command_line() {
        let task = Reader { maps: true, discards: false, passes: 3, path: "/a b/c:d".into() };
        assert_eq!(Reader::parse(&task.to_argument()).expect("a task"), task);
        assert!(Reader::parse("x").is_err());
    }
}
