//! Messages to the volume plug-in of Docker and Podman: each is answered, and none is a failure of the plug-in.
#![no_main]

use std::cell::RefCell;

use cairn_fuzz::http::{Body, World};
use libfuzzer_sys::fuzz_target;

const ROUTES: [&str; 9] = [
    "/Plugin.Activate",
    "/VolumeDriver.Create",
    "/VolumeDriver.Remove",
    "/VolumeDriver.Mount",
    "/VolumeDriver.Path",
    "/VolumeDriver.Unmount",
    "/VolumeDriver.Get",
    "/VolumeDriver.List",
    "/VolumeDriver.Capabilities",
];
const KEYS: [&str; 8] = ["Name", "ID", "Opts", "size", "inodes", "profile", "volume", "data-center"];
const WORDS: [&str; 8] = ["models", "one", "1GiB", "20GB", "runpod-network-volume", "../..", "", "agv6w2qcg7"];

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fuzz_target!(|input: (u8, Body)| {
    let (route, body) = input;
    let path = ROUTES[usize::from(route) % ROUTES.len()];
    let body = body.encode(&KEYS, &WORDS);
    WORLD.with_borrow_mut(|world| {
        let now = World::fresh(world.take());
        let answer = now.plugin(path, &body);
        let text = String::from_utf8_lossy(&answer.body);
        serde_json::from_slice::<serde_json::Value>(&answer.body).expect("JSON");
        assert!(!text.contains("the plug-in failed"), "{path}: {} {text}", answer.status);
        *world = Some(now);
    });
});
