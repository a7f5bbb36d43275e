"""A stand-in for an inference engine: no model, but the engine's own strictness at its edges.

It takes the engine's command line (all flags of one version, and no other), starts as slowly, answers the same
HTTP paths with the same bodies and errors, has the same names of metrics, and stops in the same way. For tests
of what surrounds an engine where several replicas, or a second engine, would need too much memory.

    python3 -m sglang.launch_server --model-path ...        vllm serve MODEL ...
                                                            python3 -m vllm.entrypoints.openai.api_server --model ...

Where it differs from the originals:

* The text is made up. A token is a word of it, and a byte of the prompt; `stop`, `temperature` and the like are
  ignored, and a request without `max_tokens` gets 16.
* A model that is not a path is taken for a Hugging Face id and is not looked up. A path has to be a directory with a
  config.json, as for the originals, but nothing else in it is read.
* Flags are checked one by one; combinations that the originals refuse are taken, and `--config` is refused.
* There are the metrics of the endpoint pickers, the common counters and the histogram of latencies, no others; the
  latter does not tell streams from other answers.
* No KV events, no transfer of KV caches, no LoRA, no gRPC, no TLS. A prefill or decode server of SGLang wants
  `bootstrap_room` in each request, and the prefill server's bootstrap port answers `/health`, but that is all. With
  `--log-requests` each request is logged, with where it meets its other side and nothing else of it.
* SGLang's `/server_info` and `/model_info` have the commonly read keys only.

Settings (environment): STAND_IN_LOAD_SECONDS (1): how long the port stays closed; STAND_IN_WARMUP_SECONDS (1):
how long SGLang then answers 503; STAND_IN_TOKEN_SECONDS (0.01): time a token; STAND_IN_DRAIN_POLL_SECONDS (5):
how often a draining SGLang looks whether it is idle.

And where something is to go wrong, with how many completions it begins well: STAND_IN_FAIL_AFTER: later ones are
answered 500; STAND_IN_CRASH_AFTER: with the next one the process ends, and the answers of all others with it.
"""
