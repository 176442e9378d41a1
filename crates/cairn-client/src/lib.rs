pub mod api;
mod overlay;
