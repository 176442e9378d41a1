//! Bodies of HTTP requests to every face of the control plane: each is answered in the face's form, and none is a failure
//! of the control plane.
#![no_main]

use std::cell::RefCell;

use cairn_control::service::ServiceError;
use cairn_fuzz::http::{Body, World};
use libfuzzer_sys::fuzz_target;

const ROUTES: [(&str, &str); 22] = [
    ("POST", "/v1/networkvolumes"),
    ("PATCH", "/v1/networkvolumes/agv6w2qcg7"),
    ("POST", "/v1/pods"),
    ("PATCH", "/v1/pods/agv6w2qcg7"),
    ("POST", "/v1/endpoints"),
    ("PATCH", "/v1/endpoints/agv6w2qcg7"),
    ("POST", "/v1/templates"),
    ("PATCH", "/v1/templates/agv6w2qcg7"),
    ("POST", "/v2/network-volumes"),
    ("PATCH", "/v2/network-volumes/agv6w2qcg7"),
    ("POST", "/v2/pods"),
    ("PATCH", "/v2/pods/agv6w2qcg7"),
    ("POST", "/v2/pods/agv6w2qcg7/action"),
    ("POST", "/v2/serverless"),
    ("PATCH", "/v2/serverless/agv6w2qcg7"),
    ("POST", "/v2/templates"),
    ("PATCH", "/v2/templates/agv6w2qcg7"),
    ("PUT", "/v2/account/ssh-keys"),
    ("POST", "/cairn/v1/accounts"),
    ("POST", "/cairn/v1/keys"),
    ("POST", "/cairn/v1/clock"),
    ("POST", "/graphql"),
];

const KEYS: [&str; 64] = [
    "name",
    "size",
    "dataCenterId",
    "ports",
    "env",
    "type",
    "templateId",
    "image",
    "imageName",
    "registry",
    "gpu",
    "networkVolumeId",
    "networkVolumeIds",
    "disk",
    "args",
    "allowedCudaVersions",
    "dataCenterIds",
    "volumeMountPath",
    "volumeInGb",
    "vcpuCount",
    "mounts",
    "locked",
    "globalNetworking",
    "dockerStartCmd",
    "dockerEntrypoint",
    "containerDiskInGb",
    "computeType",
    "workers",
    "minCudaVersion",
    "machine",
    "cpu",
    "category",
    "min",
    "max",
    "scaling",
    "scalerType",
    "scalerValue",
    "workersMin",
    "workersMax",
    "idleTimeout",
    "gpuTypeIds",
    "gpuCount",
    "flashboot",
    "containerRegistryAuthId",
    "isServerless",
    "isPublic",
    "readme",
    "interruptible",
    "cpuFlavorIds",
    "startSsh",
    "startJupyter",
    "executionTimeoutMs",
    "count",
    "path",
    "memory",
    "action",
    "keys",
    "email",
    "prepaid",
    "label",
    "advance",
    "query",
    "variables",
    "operationName",
];

const WORDS: [&str; 32] = [
    "volume",
    "EU-RO-1",
    "US-TX-2",
    "busybox",
    "8888/http",
    "22/tcp",
    "CPU",
    "GPU",
    "NVIDIA GeForce RTX 4090",
    "cpu3c",
    "cpu3c-2-4",
    "QUEUE_DELAY",
    "REQUEST_COUNT",
    "NVIDIA",
    "SECURE",
    "start",
    "stop",
    "restart",
    "/workspace",
    "",
    "query { myself { id networkVolumes { id size } pods { id } } }",
    "query A { ...F } fragment F on Query { myself { ...F } }",
    "{ myself { ...A } } fragment A on User { ...B } fragment B on User { ...A }",
    "mutation { createNetworkVolume(input: { name: \"x\", size: 10, dataCenterId: \"EU-RO-1\" }) { id } }",
    "mutation M($i: DeployCpuPodInput) { deployCpuPod(input: $i) { id } }",
    "{ a: myself { id } b: myself { id } c: gpuTypes { id } d: cpuFlavors { id } e: dataCenters { id } }",
    "{ gpuTypes(input: { id: \"NVIDIA GeForce RTX 4090\" }) { id lowestPrice(input: { gpuCount: 1 }) { minimumBidPrice } } }",
    "{ __schema { types { fields { type { ofType { ofType { ofType { name } } } } } } } }",
    "query { myself { id @include(if: true) @skip(if: false) } }",
    "subscription { x }",
    "30d",
    "member",
];

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

#[derive(arbitrary::Arbitrary, Debug)]
enum Input {
    Rest(u8, Body),
    /// A query of any text, or one with words of the schema put into it.
    GraphQl(String, Vec<(u8, String)>),
}

fuzz_target!(|input: Input| {
    let ((method, path), body) = match input {
        Input::Rest(route, body) => (ROUTES[usize::from(route) % ROUTES.len()], body.encode(&KEYS, &WORDS)),
        Input::GraphQl(first, rest) => {
            let mut query = first;
            for (word, text) in rest {
                query.push_str(WORDS[usize::from(word) % WORDS.len()]);
                query.push_str(&text);
            }
            (("POST", "/graphql"), serde_json::json!({ "query": query }).to_string().into_bytes())
        }
    };
    WORLD.with_borrow_mut(|world| {
        let mut now = World::fresh(world.take());
        let answer = now.control_plane(method, path, &body);
        let text = String::from_utf8_lossy(&answer.body);
        assert!(answer.body.is_empty() || serde_json::from_slice::<serde_json::Value>(&answer.body).is_ok(), "{text}");
        assert!(!text.contains(ServiceError::INTERNAL), "{method} {path}: {} {text}", answer.status);
        *world = Some(now);
    });
});
