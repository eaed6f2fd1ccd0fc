//! The ways to a file's bytes that take turns.

/// What one way is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Over HTTP, by curl.
    Http,
    /// Over HTTP, by curl, of a file that is not here yet.
    HttpCold,
    /// By read(2).
    Read,
    /// By mmap(2).
    Map,
    /// By read(2), of a file that is not here yet.
    ReadCold,
}

/// A way to a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// nginx, from the page cache to the socket in the kernel.
    NginxSendfile,
    /// nginx, through its own buffers.
    NginxBuffers,
    /// The agent's HTTP door, a file that is whole.
    Http,
    /// The agent's S3 door, a file that is whole.
    S3,
    /// nginx's sendfile, beside what is not here yet.
    NginxBesideCold,
    /// The agent's HTTP door, a file that is at its origin.
    HttpLazy,
    /// The agent's S3 door, a file that is at its origin.
    S3Lazy,
    /// The store's own file.
    DirectRead,
    /// The mount, read by the kernel itself.
    FuseRead,
    /// The mount, through the agent: open since before the file was whole.
    FuseThroughAgent,
    /// The store's own file.
    DirectMap,
    /// The mount, mapped by the kernel itself.
    FuseMap,
    /// The origin's own file.
    DirectBesideCold,
    /// The mount, a file that is at its origin.
    FuseLazy,
}

impl Contender {
    /// In the order in which they take turns.
    pub const ALL: [Self; 14] = [
        Self::NginxSendfile,
        Self::NginxBuffers,
        Self::Http,
        Self::S3,
        Self::NginxBesideCold,
        Self::HttpLazy,
        Self::S3Lazy,
        Self::DirectRead,
        Self::FuseRead,
        Self::FuseThroughAgent,
        Self::DirectMap,
        Self::FuseMap,
        Self::DirectBesideCold,
        Self::FuseLazy,
    ];

    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::NginxSendfile => "nginx sendfile",
            Self::NginxBuffers => "nginx buffers",
            Self::Http => "HTTP door, whole",
            Self::S3 => "S3 door, whole",
            Self::NginxBesideCold => "nginx sendfile, once",
            Self::HttpLazy => "HTTP door, coming",
            Self::S3Lazy => "S3 door, coming",
            Self::DirectRead => "direct read",
            Self::FuseRead => "FUSE passthrough read",
            Self::FuseThroughAgent => "FUSE through the agent",
            Self::DirectMap => "direct mmap",
            Self::FuseMap => "FUSE passthrough mmap",
            Self::DirectBesideCold => "direct read, once",
            Self::FuseLazy => "FUSE, coming",
        }
    }

    /// What it is compared with.
    pub fn group(self) -> Group {
        match self {
            Self::NginxSendfile | Self::NginxBuffers | Self::Http | Self::S3 => Group::Http,
            Self::NginxBesideCold | Self::HttpLazy | Self::S3Lazy => Group::HttpCold,
            Self::DirectRead | Self::FuseRead | Self::FuseThroughAgent => Group::Read,
            Self::DirectMap | Self::FuseMap => Group::Map,
            Self::DirectBesideCold | Self::FuseLazy => Group::ReadCold,
        }
    }

    /// Whether it is one that ours are compared with.
    pub fn is_rival(self) -> bool {
        match self {
            Self::NginxSendfile
            | Self::NginxBuffers
            | Self::NginxBesideCold
            | Self::DirectRead
            | Self::DirectMap
            | Self::DirectBesideCold => true,
            Self::Http
            | Self::HttpLazy
            | Self::S3
            | Self::S3Lazy
            | Self::FuseRead
            | Self::FuseThroughAgent
            | Self::FuseMap
            | Self::FuseLazy => false,
        }
    }

    /// Whether the file is at its origin only when it begins.
    pub fn is_cold(self) -> bool {
        matches!(self.group(), Group::HttpCold | Group::ReadCold)
    }
}
