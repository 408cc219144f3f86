//! Socket options.

use tokio::net::TcpStream;

/// Unsent bytes that the kernel may hold: beyond this the order is ours, and small messages still overtake.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 256 * 1024;

/// Small frames leave at once, and a long queue stays in our hands and not in the kernel's.
pub(super) fn tune(stream: &TcpStream) {
    let outcome = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let outcome = outcome.and_then(|()| socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT));
    if let Err(error) = outcome {
        // The connection works all the same, or breaks at the first write.
        tracing::debug!(%error, "socket options");
    }
}
