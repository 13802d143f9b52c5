//! What happens to a node as a whole, in virtual machines of the tests' own: the package's life, and the machine's.
//!
//! Only built with the feature `vm` (`make test-machines`, after `make test-images`), and takes many minutes.

mod package;
mod reboots;
