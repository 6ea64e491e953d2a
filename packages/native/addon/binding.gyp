{
  "targets": [
    {
      "target_name": "sealed_session",
      "sources": ["src/module.c", "src/keys.c", "src/primitives.c", "src/locked-memory.c"],
      "defines": ["NAPI_VERSION=8", "OPENSSL_API_COMPAT=30000", "OPENSSL_NO_DEPRECATED"],
      "cflags": ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-fvisibility=hidden", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"],
      "cflags!": ["-O3", "-fno-omit-frame-pointer"],
      "conditions": [
        ["OS=='linux'", { "ldflags": ["-Wl,-z,now", "-Wl,-z,relro", "-Wl,-z,noexecstack", "-Wl,--gc-sections", "-s"] }],
        ["OS=='mac'", { "xcode_settings": { "GCC_SYMBOLS_PRIVATE_EXTERN": "YES", "MACOSX_DEPLOYMENT_TARGET": "11.0", "OTHER_CFLAGS": ["-std=c11", "-Wall", "-Wextra"], "OTHER_LDFLAGS": ["-Wl,-bind_at_load"] } }],
        ["OS=='win'", { "msvs_settings": { "VCCLCompilerTool": { "AdditionalOptions": ["/std:c11"] } } }]
      ]
    }
  ]
}
