"""`qwen3 serve`: an OpenAI-compatible server and a page to chat on, over one engine.

Bodies are checked by `chat_body` and `completion_body` and become engine requests; `engine_thread`
runs them with continuous batching over all clients; `answer_stream` turns tokens into text,
reasoning and tool calls; `responses` writes OpenAI's objects; `application` has the routes.
"""
