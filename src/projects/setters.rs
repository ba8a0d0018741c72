//! The setters that [`ContainerConfig`](super::ContainerConfig) and [`ProjectOptions`](super::ProjectOptions) have in common.
#![forbid(unsafe_code)]

/// For a type with the fields `image`, `env`, `ports`, `network` and `command`.
macro_rules! setters {
    ($type:ty) => {
        impl $type {
            /// Sets the image.
            #[must_use]
            pub fn image(mut self, image: impl Into<String>) -> Self {
                self.image = image.into();
                self
            }

            /// Sets one variable.
            #[must_use]
            pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
                self.env.insert(key.into(), value.into());
                self
            }

            /// Publishes one more port.
            #[must_use]
            pub fn port(mut self, port: Publish) -> Self {
                self.ports.push(port);
                self
            }

            /// Sets the network.
            #[must_use]
            pub fn network(mut self, mode: NetworkMode) -> Self {
                self.network = Some(mode);
                self
            }

            /// Sets what runs as long as the container does.
            #[must_use]
            pub fn command<S: Into<String>>(mut self, argv: impl IntoIterator<Item = S>) -> Self {
                self.command = argv.into_iter().map(Into::into).collect();
                self
            }
        }
    };
}
pub(super) use setters;
