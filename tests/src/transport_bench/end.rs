//! One end of a transfer, as a process of its own.
//!
//! A source says where it listens and serves until it is killed. A sink moves the warm-up, says so, waits
//! for a line, moves the payload, says how long it took, waits for a line, checks what it has and says so.

use std::time::Instant;

use coordinatorless_p2p::{Result, identity::install_crypto_provider};

use super::{
    Contender, Finished, bare, exchange, streams,
    task::{End, Sink, Task, identity, tell, wait},
};

impl End {
    /// Is that end until it is done or killed.
    ///
    /// # Errors
    /// Whatever stopped it.
    pub fn run(&self) -> Result<()> {
        install_crypto_provider();
        match self.task {
            Task::Serve { host } => match self.contender {
                Contender::Tcp => streams::serve(host, None),
                Contender::TcpTls => streams::serve(host, Some(identity()?.server_config()?)),
                Contender::Quinn => bare::serve(host),
                Contender::Exchange { chunk_bytes } => exchange::serve(self, host, chunk_bytes),
            },
            Task::Fetch { from, host } => match self.contender {
                Contender::Tcp => self.drive(streams::Fetcher::connect(from, None)?),
                Contender::TcpTls => {
                    self.drive(streams::Fetcher::connect(from, Some(identity()?.client_config(None)?))?)
                }
                Contender::Quinn => self.drive(bare::Fetcher::connect(host, from)?),
                Contender::Exchange { chunk_bytes } => {
                    self.drive(exchange::Fetcher::connect(self, host, from, chunk_bytes)?)
                }
            },
        }
    }

    fn drive(&self, mut sink: impl Sink) -> Result<()> {
        sink.warm_up(self.warm_up_bytes)?;
        tell(&())?;
        wait()?;
        let began = Instant::now();
        sink.fetch(self.bytes)?;
        tell(&Finished { seconds: began.elapsed().as_secs_f64() })?;
        wait()?;
        sink.check()?;
        tell(&())
    }
}
