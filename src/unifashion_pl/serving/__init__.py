"""An index behind HTTP: Starlette and uvicorn (extra `serve`), imported by `unifashion serve` alone."""
