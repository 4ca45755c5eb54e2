//! The process runtime: an instance is a child process. For trusted apps.
