//! Compiles `vendor/shim` against the headers of the pinned llama.cpp and binds it.
//! Without the feature `llama` there is nothing to do.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "llama")]
    shim::build();
}

#[cfg(feature = "llama")]
#[path = "build/amx.rs"]
mod amx;

#[cfg(feature = "llama")]
mod shim {
    use std::path::{Path, PathBuf};
    use std::{env, fs};

    use super::amx::{self, Verdict};

    /// The same as in Cargo.toml: the shim uses headers that change between versions.
    const PINNED: &str = "0.1.161";

    /// What speed and memory depend on.
    const ENGINE_FLAGS: [&str; 14] = [
        "CMAKE_BUILD_TYPE",
        "GGML_BACKEND_DL",
        "GGML_BLAS",
        "GGML_CPU_REPACK",
        "GGML_CUDA",
        "GGML_CUDA_GRAPHS",
        "GGML_HIP",
        "GGML_LLAMAFILE",
        "GGML_LTO",
        "GGML_METAL",
        "GGML_NATIVE",
        "GGML_OPENMP",
        "GGML_RPC",
        "GGML_VULKAN",
    ];

    pub(crate) fn build() {
        println!("cargo:rerun-if-changed=vendor/shim");
        println!("cargo:rerun-if-changed=build");
        let engine = Engine::find();
        engine.check_version();
        engine.warn_if_slow();
        engine.link_dynamically();
        engine.check_tiles();
        engine.tell();
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        compile(&engine.include_dirs());
        bind(&engine.include_dirs(), &out.join("shim.rs"));
    }

    /// What the build of `llama-cpp-sys-2` left behind.
    struct Engine {
        /// The cache that `cmake` left.
        cache: String,
        /// The sources of llama.cpp.
        source: PathBuf,
        /// Where its libraries were installed.
        libraries: PathBuf,
    }

    impl Engine {
        fn find() -> Self {
            let cmake = env::var_os("DEP_LLAMA_GGML_CMAKE_DIR").map_or_else(
                || missing("llama-cpp-sys-2 did not say where it put ggml's CMake files"),
                PathBuf::from,
            );
            let out = cmake.ancestors().find(|dir| dir.join("build/CMakeCache.txt").is_file());
            let Some(out) = out else {
                missing(&format!("there is no build/CMakeCache.txt above {}", cmake.display()))
            };
            let cache = fs::read_to_string(out.join("build/CMakeCache.txt"))
                .unwrap_or_else(|error| missing(&format!("CMakeCache.txt: {error}")));
            let source = cached(&cache, "llama.cpp_SOURCE_DIR").map_or_else(
                || missing("CMakeCache.txt does not name llama.cpp_SOURCE_DIR"),
                PathBuf::from,
            );
            let libraries = cmake.parent().unwrap_or(&cmake).to_owned();
            Self { cache, source, libraries }
        }

        fn include_dirs(&self) -> Vec<PathBuf> {
            let dirs: Vec<PathBuf> =
                ["include", "ggml/include", "src", "common", "vendor", "ggml/src"]
                    .iter()
                    .map(|dir| self.source.join(dir))
                    .collect();
            if !dirs[0].join("llama.h").is_file() || !dirs[2].join("llama-ext.h").is_file() {
                missing(&format!("there are no headers below {}", self.source.display()));
            }
            dirs
        }

        fn check_version(&self) {
            let manifest = self.source.join("../Cargo.toml");
            let text = fs::read_to_string(&manifest).unwrap_or_default();
            let version = text
                .lines()
                .find_map(|line| line.strip_prefix("version = "))
                .map(|version| version.trim_matches('"'));
            if let Some(version) = version.filter(|&version| version != PINNED) {
                panic!(
                    "moe-offload is written for llama-cpp-sys-2 {PINNED}, but {version} was built \
                     ({}). Pin `llama-cpp-sys-2 = \"={PINNED}\"`, or follow docs/upgrading.md to \
                     move the crate to another version.",
                    manifest.display()
                );
            }
        }

        /// For those who measure: how the engine was built.
        fn tell(&self) {
            let flags = ENGINE_FLAGS.iter().filter_map(|name| {
                cached(&self.cache, name).map(|value| format!("{name}={value}"))
            });
            let flags: Vec<String> = flags.filter(|flag| !flag.ends_with("=OFF")).collect();
            println!("cargo:rustc-env=MOE_OFFLOAD_ENGINE_FLAGS={}", flags.join(" "));
        }

        fn warn_if_slow(&self) {
            if cached(&self.cache, "CMAKE_BUILD_TYPE") == Some("Debug") {
                println!(
                    "cargo:warning=llama.cpp was built as Debug, without optimisation, because \
                     LLAMA_LIB_PROFILE or CMAKE_BUILD_TYPE says so: it computes slowly. Put \
                     LLAMA_LIB_PROFILE = \"Release\" under [env] in .cargo/config.toml"
                );
            }
        }
    }

    impl Engine {
        /// Lets programs of this package find the engine's libraries: beside themselves, or else
        /// where they were built. What depends on the package is told both folders
        /// (`DEP_MOE_OFFLOAD_LIB_DIR`, `DEP_MOE_OFFLOAD_BACKENDS_DIR`), as linker arguments are not
        /// handed on.
        fn link_dynamically(&self) {
            if !cfg!(feature = "dynamic-backends") {
                return;
            }
            let libraries = self.libraries.display();
            println!("cargo:lib_dir={libraries}");
            if let Some(backends) = env::var_os("DEP_LLAMA_BACKENDS_DIR") {
                println!("cargo:backends_dir={}", Path::new(&backends).display());
            }
            let own = match env::var("CARGO_CFG_TARGET_OS").as_deref() {
                Ok("windows") => return, // looks beside the program anyway
                Ok("macos") => "@executable_path",
                _ => "$ORIGIN",
            };
            println!("cargo:rustc-link-arg=-Wl,-rpath,{own}");
            println!("cargo:rustc-link-arg=-Wl,-rpath,{libraries}");
        }
    }

    impl Engine {
        /// With a compiler that breaks AMX code, the libraries that have such code are named to the
        /// loader, which passes over them; a program that has it inside is not built.
        fn check_tiles(&self) {
            let target = |what| env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
            // Microsoft's compiler makes no AMX code of ggml.
            let verdict = if target("ARCH") == "x86_64" && target("ENV") != "msvc" {
                let list = fs::read_to_string(self.source.join("ggml/src/CMakeLists.txt"))
                    .unwrap_or_else(|error| missing(&format!("ggml/src/CMakeLists.txt: {error}")));
                amx::verdict(|name| cached(&self.cache, name), &list)
            } else {
                Verdict::Usable
            };
            let passed_over = match verdict {
                Verdict::Usable => Vec::new(),
                Verdict::PassOver { variants, why } => {
                    println!(
                        "cargo:warning=AMX is left out ({}), since {why}: prompts run with the next best \
                         code. {}",
                        variants.join(", "),
                        amx::REMEDY
                    );
                    variants
                }
                Verdict::Refuse => panic!(
                    "llama.cpp was built with AMX code, and the compiler drops the stores that set AMX \
                     up: the program would end with an illegal instruction at its first prompt. {}. \
                     Without target-cpu=native, or another processor with AMX, there is no such code",
                    amx::REMEDY
                ),
            };
            println!("cargo:rustc-env=MOE_OFFLOAD_BROKEN_VARIANTS={}", passed_over.join(","));
        }
    }

    /// The value of `NAME:TYPE=value` in a cache of `cmake`.
    fn cached<'a>(cache: &'a str, name: &str) -> Option<&'a str> {
        cache.lines().find_map(|line| {
            let (key, value) = line.strip_prefix(name)?.split_once('=')?;
            key.starts_with(':').then_some(value)
        })
    }

    fn missing(what: &str) -> ! {
        panic!(
            "cannot find the headers of llama.cpp: {what}. The shim needs the sources that \
             llama-cpp-sys-2 {PINNED} builds; run `cargo clean -p llama-cpp-sys-2` and build \
             again, and do not use its feature `system-ggml`."
        )
    }

    fn compile(include_dirs: &[PathBuf]) {
        let mut files = vec![
            "shim",
            "candidates",
            "sampling",
            "measure",
            "paging",
            "predictor",
            "threads",
            "host_memory",
            "offload",
            "pinning",
        ];
        if cfg!(feature = "testing") {
            files.push("planted_device"); // for tests
        }
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            .files(files.iter().map(|file| format!("vendor/shim/{file}.cpp")))
            .includes(include_dirs)
            .warnings(false) // the engine's headers have their own
            .compile("moe_offload_shim");
    }

    fn bind(include_dirs: &[PathBuf], into: &Path) {
        let bindings = bindgen::Builder::default()
            .header("vendor/shim/shim.h")
            .clang_args(include_dirs.iter().map(|dir| format!("-I{}", dir.display())))
            .allowlist_function("moe_.*")
            .allowlist_type("moe_.*")
            .allowlist_var("MOE_.*")
            // The engine's own types come from llama-cpp-sys-2.
            .allowlist_recursively(false)
            .prepend_enum_name(false)
            .generate()
            .unwrap_or_else(|error| {
                panic!("bindgen could not read vendor/shim/shim.h: {error}. Is libclang installed?")
            });
        bindings.write_to_file(into).expect("OUT_DIR is writable");
    }
}
