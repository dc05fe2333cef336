"""Runs a WebAssembly program with the file system, the environment and the arguments it is given.

Usage: wasi.py MODULE [ARGUMENT…]
"""

import os
import sys

import wasmtime

NOT_SUPPORTED = 58


def main() -> int:
    engine = wasmtime.Engine()
    module = wasmtime.Module.from_file(engine, sys.argv[1])
    wasi = wasmtime.WasiConfig()
    wasi.argv = sys.argv[1:]
    wasi.env = list(os.environ.items())
    wasi.inherit_stdin()
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    wasi.preopen_dir("/", "/")
    store = wasmtime.Store(engine)
    store.set_wasi(wasi)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    for wanted in module.imports:
        if wanted.module == "env":
            # Old C libraries lack even the functions that say that there are no threads: attributes of threads are
            # accepted, threads are not.
            answer = 0 if wanted.name.startswith("pthread_attr_") else NOT_SUPPORTED
            linker.define_func("env", wanted.name, wanted.type, lambda *_, answer=answer: answer)
    try:
        linker.instantiate(store, module).exports(store)["_start"](store)
    except wasmtime.ExitTrap as exit:
        return exit.code
    except wasmtime.Trap as trap:
        # The message of the panic has been printed.
        print(str(trap).splitlines()[-1], file=sys.stderr)
        return 101
    return 0


if __name__ == "__main__":
    sys.exit(main())
