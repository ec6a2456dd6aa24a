//! Handles that read and write as the stream in them does.

/// `AsyncRead` of a handle by one of its fields.
macro_rules! read_by {
    ($handle:ty, $stream:tt) => {
        impl tokio::io::AsyncRead for $handle {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.$stream).poll_read(cx, buf)
            }
        }
    };
}

/// `AsyncWrite` of a handle by one of its fields.
macro_rules! write_by {
    ($handle:ty, $stream:tt) => {
        impl tokio::io::AsyncWrite for $handle {
            fn poll_write(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                bytes: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.$stream).poll_write(cx, bytes)
            }

            /// Written bytes leave by themselves.
            fn poll_flush(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.$stream).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.$stream).poll_shutdown(cx)
            }
        }
    };
}

pub(super) use {read_by, write_by};
