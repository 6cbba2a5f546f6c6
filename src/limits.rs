//! Every bound of the program that is not a protocol's, with its reason and what it costs in memory.
//!
//! Bounds that only one module needs stand there and are gathered here in [`sums`], so that `nodens check` and
//! the start line can say what the process may use at most. Nothing grows beyond what is listed.

/// Bytes in a KiB, and so on up.
pub const KIB: u64 = 1024;
/// Bytes in a MiB.
pub const MIB: u64 = 1024 * KIB;
/// Bytes in a GiB.
pub const GIB: u64 = 1024 * MIB;

/// Most worker threads; more than this many cores bring nothing behind one socket per worker.
pub const MAX_WORKERS: usize = 256;
/// Most addresses listened on: loopback, link-local and cluster addresses of both families fit many times.
pub const MAX_LISTEN: usize = 16;
/// Most zones with servers of their own.
pub const MAX_ZONES: usize = 256;
/// Most upstreams written for one zone; a resolver asks a handful before the client gives up.
pub const MAX_SERVERS_PER_ZONE: usize = 16;

/// Default bytes of the store: some 250,000 answers, several times the names a busy node uses.
pub const DEFAULT_CACHE_BYTES: u64 = 64 * MIB;
/// Least bytes of the store.
pub const MIN_CACHE_BYTES: u64 = MIB;
/// Most bytes of the store.
pub const MAX_CACHE_BYTES: u64 = 1024 * GIB;
/// The hot level's entries: the names a node's pods use over and over; a few thousand in practice.
pub const HOT_ENTRIES: usize = 16_384;
/// The hot level's bytes as a part of the store's: entries in both levels are counted in both.
pub const HOT_PART: u64 = 4;
/// Table and ring of the hot level, for each entry.
const HOT_ENTRY_OVERHEAD: u64 = 128;

/// Questions that may wait for upstream: 1.9 s of 4,000 misses a second, far over any resolver's limit.
pub const MAX_WAITING: u32 = 8192;
/// Of these for one client, as unbound bounds it (its `wait-limit`).
pub const MAX_WAITING_PER_CLIENT: u32 = 1024;
/// Questions that nobody waits for any more and whose answers would still be kept: as many as a second's misses, and an eighth
/// for one client. A name whose servers are dead takes such a place for four seconds, but none of those above.
pub const MAX_LATE: u32 = 2048;
/// Of these for one client.
pub const MAX_LATE_PER_CLIENT: u32 = 256;
/// Memory of a waiting question: its task, its table entry, its tries with their buffers.
const WAITING_BYTES: u64 = 6 * KIB;

/// Memory of a place in line where each client and each domain has only one; whoever has a place is a question that waits.
const PLACE_BYTES: u64 = 1280;
/// Memory of a budget: twelve windows with 512 places of loss each, 1,024 servers and domains.
const BUDGET_BYTES: u64 = 640 * KIB;

/// TCP connections of clients, in all.
pub const MAX_CONNECTIONS: u32 = 1024;
/// TCP connections of one client: more than any stub resolver opens, a fraction of all.
pub const MAX_CONNECTIONS_PER_CLIENT: u32 = 128;
/// Questions of one connection that may wait (RFC 7766 section 6.2.1.1 asks for pipelining, not for how much).
pub const MAX_PIPELINED: usize = 128;
/// The largest query taken over TCP: a question, an OPT and room for padding (RFC 8467 pads to 128).
pub const MAX_QUERY: usize = 4096;
/// Replies gathered before they are written.
pub const MAX_GATHERED: usize = 64 * 1024;
/// Memory of a connection: query buffer, gathered replies, one large reply more.
const CONNECTION_BYTES: u64 = (MAX_QUERY + MAX_GATHERED + 65_535 + 8 * 1024) as u64;

/// Memory of a connection inside TLS: buffers of a record each way (16 KiB), a reply of 64 KiB, 128 questions with their tables
/// (1 KiB each), and as much as all of that again for what HTTP/2 and the allocator round up.
const TLS_CONNECTION_BYTES: u64 = 320 * KIB;

/// Datagrams taken and answered per system call.
pub const BATCH: usize = 32;
/// Octets of a datagram that are taken; a longer one is answered FORMERR.
pub const DATAGRAM: usize = 4096;
/// Misses of a socket that wait to be begun; beyond it as many are begun as come.
pub const MAX_UNBEGUN: usize = 1024;
/// Replies to misses that wait for room in a socket before nothing more is taken from it; those of questions in flight come on top.
pub const MAX_UNSENT: usize = 256;
/// Receive buffer asked for per UDP socket: two seconds of queries that wait while a process is replaced.
pub const RECEIVE_BUFFER: u64 = 4 * MIB;

/// Threads beside the workers: the main thread with the admin server, the log.
const OTHER_THREADS: u64 = 2;
/// Code, runtime, stacks as far as they are touched.
const BASE_BYTES: u64 = 12 * MIB;
/// A worker's buffers, and its misses that have not been begun: half a KiB each.
const WORKER_BYTES: u64 = 512 * KIB + (MAX_UNBEGUN as u64) * KIB / 2;

/// What is configured of all that costs memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Worker threads.
    pub workers: u64,
    /// Addresses listened on.
    pub listen: u64,
    /// Upstream servers that are spoken to in the clear, over all zones.
    pub plain_servers: u64,
    /// Upstream servers that are spoken to inside TLS, over all zones.
    pub encrypted_servers: u64,
    /// Servers that are asked for the addresses of others.
    pub bootstraps: u64,
    /// Budgets of packets that have a limit.
    pub budgets: u64,
    /// Bytes of the store.
    pub cache_bytes: u64,
    /// UDP sockets a worker has open to one server at most.
    pub sockets_per_server: u64,
    /// Connections a worker keeps to one server.
    pub connections_per_server: u64,
}

impl Settings {
    /// What is open to servers in the clear: from each worker to each of them, and from the main thread to the bootstraps.
    fn upstream_sockets(&self) -> u64 {
        (self.workers * self.plain_servers + self.bootstraps) * self.sockets_per_server
    }

    fn plain_connections(&self) -> u64 {
        (self.workers * self.plain_servers + self.bootstraps) * self.connections_per_server
    }

    fn encrypted_connections(&self) -> u64 {
        self.workers * self.encrypted_servers * self.connections_per_server
    }
}

/// One line of what can be used at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it is.
    pub what: &'static str,
    /// How many of it.
    pub count: u64,
    /// Bytes of memory for all of them.
    pub bytes: u64,
}

/// All lines; their bytes sum up to what the process may use, the kernel's socket buffers apart.
pub fn sums(of: &Settings) -> Vec<Line> {
    let line = |what, count, each: u64| Line { what, count, bytes: count * each };
    let hot_bytes = of.cache_bytes / HOT_PART;
    let per_socket = (BATCH * (DATAGRAM + 1232 + 512) + MAX_UNSENT * (1232 + 256)) as u64;
    vec![
        Line { what: "store, bytes of answers", count: of.cache_bytes, bytes: of.cache_bytes },
        Line {
            what: "hot level, entries",
            count: HOT_ENTRIES as u64,
            bytes: hot_bytes + HOT_ENTRIES as u64 * HOT_ENTRY_OVERHEAD,
        },
        line("questions waiting for upstream", u64::from(MAX_WAITING), WAITING_BYTES),
        line("questions whose answers are late", u64::from(MAX_LATE), WAITING_BYTES),
        line("TCP connections of clients", u64::from(MAX_CONNECTIONS), CONNECTION_BYTES),
        line("UDP sockets for clients", of.workers * of.listen, per_socket),
        line("UDP sockets to upstream servers", of.upstream_sockets(), 8 * KIB),
        line("TCP connections to upstream servers", of.plain_connections(), 80 * KIB),
        line("TLS connections to upstream servers", of.encrypted_connections(), TLS_CONNECTION_BYTES),
        line("places in line for a budget", u64::from(MAX_WAITING) * of.budgets.min(1), PLACE_BYTES),
        line("budgets of packets", of.budgets, BUDGET_BYTES),
        line("failing questions remembered", 16_384, 128),
        line("answers that searches rest on", 32_768, 300),
        line("names remembered for searches", 2 * 16_384, 400),
        line("look-ups left to their clients", 2 * 65_536, 8),
        line("addresses whose search lists are learned", 4096, 8 * KIB),
        line("questions noted for that", of.workers * 1024, 320),
        line("last answers", of.workers * 4096, 128),
        line("services that are waited for", 1024, 400),
        line("client buckets", 4 * 4096, 8),
        line("threads", of.workers + OTHER_THREADS, WORKER_BYTES),
        Line { what: "program", count: 1, bytes: BASE_BYTES },
    ]
}

/// Bytes of all lines.
pub fn total_bytes(lines: &[Line]) -> u64 {
    lines.iter().map(|line| line.bytes).sum()
}

/// File descriptors of all lines, with a few for the runtime, the admin server and standard error.
pub fn descriptors(of: &Settings) -> u64 {
    let upstream = of.upstream_sockets() + of.plain_connections() + of.encrypted_connections();
    of.workers * (2 * of.listen + 8) + upstream + u64::from(MAX_CONNECTIONS) + 64
}

/// TCP connections of clients that are taken where the process may have so many descriptors: what all else needs stays free, as far as
/// there is that much.
pub fn connections(of: &Settings, allowed: u64) -> u32 {
    let others = descriptors(of) - u64::from(MAX_CONNECTIONS);
    let left = allowed.saturating_sub(others).max(allowed / 4);
    u32::try_from(left).unwrap_or(u32::MAX).min(MAX_CONNECTIONS)
}

/// Of so many connections, those that one client may have: an eighth at most.
pub fn connections_of_client(connections: u32) -> u32 {
    MAX_CONNECTIONS_PER_CLIENT.min((connections / 8).max(1))
}

/// A number of bytes as people write it.
pub fn bytes_text(bytes: u64) -> String {
    for (unit, size) in [("GiB", GIB), ("MiB", MIB), ("KiB", KIB)] {
        if bytes >= size {
            let tenths = bytes * 10 / size;
            return if tenths.is_multiple_of(10) {
                format!("{}{unit}", tenths / 10)
            } else {
                format!("{}.{}{unit}", tenths / 10, tenths % 10)
            };
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_well() {
        assert_eq!(bytes_text(64 * MIB), "64MiB");
        assert_eq!(bytes_text(1536), "1.5KiB");
        assert_eq!(bytes_text(12), "12B");
    }

    const SMALL: Settings = Settings {
        workers: 2,
        listen: 2,
        plain_servers: 3,
        encrypted_servers: 2,
        bootstraps: 1,
        budgets: 1,
        cache_bytes: DEFAULT_CACHE_BYTES,
        sockets_per_server: 32,
        connections_per_server: 4,
    };

    #[test]
    fn the_default_fits_a_small_node() {
        assert!(total_bytes(&sums(&SMALL)) < 384 * MIB);
    }

    #[test]
    fn where_descriptors_are_few_connections_leave_them_to_others() {
        let all = descriptors(&SMALL);
        assert_eq!(connections(&SMALL, all), MAX_CONNECTIONS);
        assert_eq!(connections(&SMALL, u64::MAX), MAX_CONNECTIONS);
        assert_eq!(connections(&SMALL, all - 100), MAX_CONNECTIONS - 100);
        assert_eq!(connections(&SMALL, 64), 16, "a quarter is theirs all the same");
        assert_eq!([MAX_CONNECTIONS, 16, 1].map(connections_of_client), [MAX_CONNECTIONS_PER_CLIENT, 2, 1]);
    }
}
