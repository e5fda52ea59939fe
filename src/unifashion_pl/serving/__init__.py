"""An index behind HTTP: Starlette and uvicorn (extra `serve`), imported by `unifashion serve`; of it `demo` has how requests arrive."""
