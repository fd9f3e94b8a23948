"""The official client against a server with the tiny model."""

QUESTION = [{"role": "user", "content": "the cat?"}]


def test_streamed_pieces_join_to_the_whole_answer(client):
    asked = {"model": "tiny", "messages": QUESTION, "max_tokens": 40, "seed": 1}
    (whole,) = client.chat.completions.create(**asked).choices
    chunks = list(client.chat.completions.create(**asked, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.message.content and len(chunks) > 3
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason == "length"
