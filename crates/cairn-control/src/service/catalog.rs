//! What the cloud lists and this machine only names: data centres, kinds of GPUs and CPUs, public templates. Nothing of it is
//! promised, and none of it has a price: pods run on whatever the server runs on.
//!
//! Ids of data centres and GPUs are those of the published specifications, with the data centre that early documents name
//! (US-TX-2) and `LOCAL`, where `cairn dev` makes its volume.

use super::records::{ContainerConfig, Template};

/// A data centre.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataCenter {
    pub id: String,
    pub name: String,
    /// As REST v2 names regions.
    pub region: &'static str,
}

/// Where `cairn dev` makes its volume.
pub const LOCAL: &str = "LOCAL";

const DATA_CENTERS: [(&str, &str, &str); 28] = [
    ("EU-RO-1", "EU Romania 1", "EUROPE"),
    ("CA-MTL-1", "Canada Montreal 1", "NORTH_AMERICA"),
    ("EU-SE-1", "EU Sweden 1", "EUROPE"),
    ("US-IL-1", "US Illinois 1", "NORTH_AMERICA"),
    ("EUR-IS-1", "Europe Iceland 1", "EUROPE"),
    ("EU-CZ-1", "EU Czechia 1", "EUROPE"),
    ("US-TX-3", "US Texas 3", "NORTH_AMERICA"),
    ("EUR-IS-2", "Europe Iceland 2", "EUROPE"),
    ("US-KS-2", "US Kansas 2", "NORTH_AMERICA"),
    ("US-GA-2", "US Georgia 2", "NORTH_AMERICA"),
    ("US-WA-1", "US Washington 1", "NORTH_AMERICA"),
    ("US-TX-1", "US Texas 1", "NORTH_AMERICA"),
    ("CA-MTL-3", "Canada Montreal 3", "NORTH_AMERICA"),
    ("EU-NL-1", "EU Netherlands 1", "EUROPE"),
    ("US-TX-4", "US Texas 4", "NORTH_AMERICA"),
    ("US-CA-2", "US California 2", "NORTH_AMERICA"),
    ("US-NC-1", "US North Carolina 1", "NORTH_AMERICA"),
    ("OC-AU-1", "Oceania Australia 1", "OCEANIA"),
    ("US-DE-1", "US Delaware 1", "NORTH_AMERICA"),
    ("EUR-IS-3", "Europe Iceland 3", "EUROPE"),
    ("CA-MTL-2", "Canada Montreal 2", "NORTH_AMERICA"),
    ("AP-JP-1", "Asia Pacific Japan 1", "ASIA"),
    ("EUR-NO-1", "Europe Norway 1", "EUROPE"),
    ("EU-FR-1", "EU France 1", "EUROPE"),
    ("US-KS-3", "US Kansas 3", "NORTH_AMERICA"),
    ("US-GA-1", "US Georgia 1", "NORTH_AMERICA"),
    ("US-TX-2", "US Texas 2", "NORTH_AMERICA"),
    (LOCAL, "This machine", "UNKNOWN"),
];

/// Those that are listed.
pub fn data_centers() -> Vec<DataCenter> {
    let center = |&(id, name, region): &(&str, &str, &'static str)| DataCenter {
        id: id.to_owned(),
        name: name.to_owned(),
        region,
    };
    DATA_CENTERS.iter().map(center).collect()
}

impl DataCenter {
    /// One that a volume is in, and that no list has.
    pub(super) fn unlisted(id: &str) -> Self {
        DataCenter { id: id.to_owned(), name: id.to_owned(), region: "UNKNOWN" }
    }
}

/// A kind of GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuType {
    pub id: &'static str,
    pub memory_gb: u32,
    /// The pool that serverless endpoints name it by.
    pub pool: Option<&'static str>,
}

/// Id, memory in GB, pool or nothing.
const GPU_TYPES: [(&str, u32, &str); 44] = [
    ("NVIDIA GeForce RTX 4090", 24, "ADA_24"),
    ("NVIDIA A40", 48, "AMPERE_48"),
    ("NVIDIA RTX A5000", 24, "AMPERE_24"),
    ("NVIDIA GeForce RTX 5090", 32, "ADA_32_PRO"),
    ("NVIDIA H100 80GB HBM3", 80, "HOPPER_80"),
    ("NVIDIA GeForce RTX 3090", 24, "AMPERE_24"),
    ("NVIDIA RTX A4500", 20, "AMPERE_16"),
    ("NVIDIA L40S", 48, "ADA_48_PRO"),
    ("NVIDIA H200", 141, "HOPPER_141"),
    ("NVIDIA L4", 24, "AMPERE_24"),
    ("NVIDIA RTX 6000 Ada Generation", 48, "ADA_48_PRO"),
    ("NVIDIA A100-SXM4-80GB", 80, "AMPERE_80"),
    ("NVIDIA RTX 4000 Ada Generation", 20, "AMPERE_16"),
    ("NVIDIA RTX A6000", 48, "AMPERE_48"),
    ("NVIDIA A100 80GB PCIe", 80, "AMPERE_80"),
    ("NVIDIA RTX 2000 Ada Generation", 16, "AMPERE_16"),
    ("NVIDIA RTX A4000", 16, "AMPERE_16"),
    ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 96, ""),
    ("NVIDIA H100 PCIe", 80, "HOPPER_80"),
    ("NVIDIA H100 NVL", 94, "HOPPER_80"),
    ("NVIDIA L40", 48, "ADA_48_PRO"),
    ("NVIDIA B200", 180, "BLACKWELL_180"),
    ("NVIDIA GeForce RTX 3080 Ti", 12, ""),
    ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 96, ""),
    ("NVIDIA GeForce RTX 3080", 10, ""),
    ("NVIDIA GeForce RTX 3070", 8, ""),
    ("AMD Instinct MI300X OAM", 192, ""),
    ("NVIDIA GeForce RTX 4080 SUPER", 16, ""),
    ("Tesla V100-PCIE-16GB", 16, ""),
    ("Tesla V100-SXM2-32GB", 32, ""),
    ("NVIDIA RTX 5000 Ada Generation", 32, ""),
    ("NVIDIA GeForce RTX 4070 Ti", 12, ""),
    ("NVIDIA RTX 4000 SFF Ada Generation", 20, ""),
    ("NVIDIA GeForce RTX 3090 Ti", 24, ""),
    ("NVIDIA RTX A2000", 6, ""),
    ("NVIDIA GeForce RTX 4080", 16, ""),
    ("NVIDIA A30", 24, ""),
    ("NVIDIA GeForce RTX 5080", 16, ""),
    ("Tesla V100-FHHL-16GB", 16, ""),
    ("NVIDIA H200 NVL", 143, ""),
    ("Tesla V100-SXM2-16GB", 16, ""),
    ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 96, ""),
    ("Tesla V100-PCIE-32GB", 32, ""),
    ("Tesla T4", 16, ""),
];

/// Most GPUs of one pod.
pub const GPU_COUNT_MAX: u32 = 8;

pub fn gpu_types() -> impl Iterator<Item = GpuType> {
    GPU_TYPES.iter().map(|&(id, memory_gb, pool)| GpuType {
        id,
        memory_gb,
        pool: Some(pool).filter(|pool| !pool.is_empty()),
    })
}

impl GpuType {
    /// Without the maker.
    pub fn display_name(self) -> &'static str {
        let short = self.id.trim_start_matches("NVIDIA ").trim_start_matches("GeForce ");
        short.trim_start_matches("AMD ").trim()
    }

    pub fn manufacturer(self) -> &'static str {
        if self.id.starts_with("AMD") { "AMD" } else { "NVIDIA" }
    }
}

/// A kind of CPU that pods without a GPU are made on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuFlavor {
    pub id: &'static str,
    pub name: &'static str,
    /// GB of memory for each virtual CPU.
    pub memory_per_vcpu: u32,
}

pub const CPU_FLAVORS: [CpuFlavor; 6] = [
    CpuFlavor { id: "cpu3c", name: "Compute-Optimized 3", memory_per_vcpu: 2 },
    CpuFlavor { id: "cpu3g", name: "General Purpose 3", memory_per_vcpu: 4 },
    CpuFlavor { id: "cpu3m", name: "Memory-Optimized 3", memory_per_vcpu: 8 },
    CpuFlavor { id: "cpu5c", name: "Compute-Optimized 5", memory_per_vcpu: 2 },
    CpuFlavor { id: "cpu5g", name: "General Purpose 5", memory_per_vcpu: 4 },
    CpuFlavor { id: "cpu5m", name: "Memory-Optimized 5", memory_per_vcpu: 8 },
];

pub const VCPU_MIN: u32 = 2;
pub const VCPU_MAX: u32 = 32;

/// Templates that everybody sees. The Python SDK names the first one for every pod without a GPU.
pub fn public_templates() -> Vec<Template> {
    let template = |id: &str, name: &str, image: &str, category: &str| Template {
        id: id.to_owned(),
        account: String::new(),
        name: name.to_owned(),
        config: ContainerConfig {
            image: image.to_owned(),
            ports: vec!["8888/http".to_owned(), "22/tcp".to_owned()],
            disk_gb: 20,
            mount_path: "/workspace".to_owned(),
            ..ContainerConfig::default()
        },
        readme: String::new(),
        category: category.to_owned(),
        serverless: false,
        public: true,
        start_ssh: true,
        start_jupyter: true,
        allowed_cuda_versions: Vec::new(),
    };
    vec![
        template("runpod-ubuntu", "Ubuntu", "runpod/base:0.5.1-cpu", "CPU"),
        template("runpod-torch-v280", "PyTorch 2.8", "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404", "NVIDIA"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gpu_has_a_name_of_its_own() {
        let mut names: Vec<&str> = gpu_types().map(GpuType::display_name).collect();
        assert!(names.contains(&"RTX 4090") && names.contains(&"Instinct MI300X OAM"));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
