//! File descriptors: as many as the system lets a process have, and how it says that none is left.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's limit as far as it may, and tells what it is then. Nothing here hands descriptors to select(2), for which a low
/// limit is the default of most systems.
pub fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum.unwrap_or(u64::MAX),
        Err(_) => current.unwrap_or(u64::MAX),
    }
}

/// True where the system has nothing left for the moment: descriptors, or memory for a socket.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// The error as `ResourceBusy` where it is such a shortage.
pub fn as_busy(error: io::Error) -> io::Error {
    if is_shortage(&error) { io::ErrorKind::ResourceBusy.into() } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_what_it_can_be() {
        let allowed = raise();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!((Some(allowed), limit.current), (limit.maximum, limit.maximum));
    }
}
