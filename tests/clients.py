"""Clients of others against a running server, which has a chat template.

    katari quantize demo --type q8_0 --chat-template rinna -o demo-chat.gguf
    katari serve demo-chat.gguf --port 8080 &
    pip install openai ollama koboldapi llm langchain-openai langchain-ollama
    python tests/clients.py http://127.0.0.1:8080 openai openai_async ollama koboldapi langchain llm

Names after the address choose among the checks; without any all run, which takes litellm,
llama-index-llms-openai-like and llama-index-llms-ollama too. (Each of these may want an
environment of its own.) Each check compares what streams with what comes whole, for one seed.
"""

import asyncio
import os
import subprocess
import sys
import tempfile

BASE = sys.argv[1].rstrip("/")
PROMPT = "昔々、あるところに"
SAID = [{"role": "user", "content": "こんにちは"}]


def check_openai():
    import openai

    client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="none")
    model = client.models.list().data[0].id
    ask = dict(model=model, prompt=PROMPT, max_tokens=20, seed=1)
    whole = client.completions.create(**ask)
    pieces = client.completions.create(**ask, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text != ""
    assert whole.choices[0].finish_reason in ("stop", "length")
    likely = client.completions.create(**ask, logprobs=2).choices[0].logprobs
    assert len(likely.tokens) == len(likely.token_logprobs) == len(likely.top_logprobs)

    ask = dict(model=model, messages=SAID, max_completion_tokens=20, seed=1)
    whole = client.chat.completions.create(**ask)
    pieces = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert text == whole.choices[0].message.content != ""
    assert pieces[-1].choices == []
    assert pieces[-1].usage.total_tokens == whole.usage.total_tokens
    try:
        client.completions.create(model=model, prompt=PROMPT, temperature="hot")
    except openai.BadRequestError as error:
        assert "temperature" in error.message
    else:
        raise AssertionError("a temperature that is no number was taken")


def check_openai_async():
    import openai

    async def many():
        client = openai.AsyncOpenAI(base_url=f"{BASE}/v1", api_key="none")
        ask = dict(model="m", prompt=PROMPT, max_tokens=30)
        alone = [(await client.completions.create(**ask, seed=i)).choices[0].text for i in range(6)]
        together = await asyncio.gather(*(client.completions.create(**ask, seed=i) for i in range(6)))
        assert [answer.choices[0].text for answer in together] == alone
        assert all(alone) and len(set(alone)) > 1

    asyncio.run(many())


def check_ollama():
    import ollama

    client = ollama.Client(host=BASE)
    model = client.list().models[0].model
    assert client.show(model).details.format == "gguf"
    assert client.ps().models[0].model == model
    ask = dict(model=model, prompt=PROMPT, raw=True, options={"num_predict": 20, "seed": 1})
    whole = client.generate(**ask)
    assert "".join(piece.response for piece in client.generate(**ask, stream=True)) == whole.response != ""
    assert whole.done_reason in ("stop", "length") and whole.eval_count <= 20
    ask = dict(model=model, messages=SAID, options={"num_predict": 20, "seed": 1})
    whole = client.chat(**ask)
    pieces = [piece.message.content for piece in client.chat(**ask, stream=True)]
    assert "".join(pieces) == whole.message.content != ""


def check_koboldapi():
    from koboldapi import KoboldAPICore

    client = KoboldAPICore(BASE).api_client
    assert client.get_model()
    assert client.get_max_context_length() > 0
    assert client.count_tokens(PROMPT)["count"] > 0
    assert client.generate(PROMPT, max_length=20)

    async def stream():
        return "".join([piece async for piece in client.stream_generate(PROMPT, max_length=20)])

    assert asyncio.run(stream())
    client.abort_generation()


def check_langchain():
    from langchain_ollama import ChatOllama, OllamaLLM
    from langchain_openai import ChatOpenAI, OpenAI

    common = dict(base_url=f"{BASE}/v1", api_key="none", model="m", seed=1)
    llm = OpenAI(**common, max_tokens=20)
    assert llm.invoke(PROMPT) == "".join(llm.stream(PROMPT)) != ""
    chat = ChatOpenAI(**common, max_tokens=20)
    assert chat.invoke("こんにちは").content == "".join(p.content for p in chat.stream("こんにちは")) != ""
    common = dict(base_url=BASE, model="m", num_predict=20, seed=1)
    llm = OllamaLLM(**common)
    assert llm.invoke(PROMPT) == "".join(llm.stream(PROMPT)) != ""
    chat = ChatOllama(**common)
    assert chat.invoke("こんにちは").content == "".join(p.content for p in chat.stream("こんにちは")) != ""


def check_litellm():
    import litellm

    def text(choice):
        return choice.text if hasattr(choice, "text") else choice.message.content

    openai = dict(api_base=f"{BASE}/v1", api_key="none", seed=1, max_tokens=20)
    ollama = dict(api_base=BASE, seed=1, max_tokens=20)
    for model, more in [
        ("openai/any", openai), ("text-completion-openai/any", openai),
        ("ollama/any", ollama), ("ollama_chat/any", ollama),
    ]:
        whole = litellm.completion(model=model, messages=SAID, **more)
        pieces = litellm.completion(model=model, messages=SAID, stream=True, **more)
        streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        assert streamed == text(whole.choices[0]) != "", (model, streamed, whole)
        assert 0 < whole.usage.completion_tokens <= 20, whole.usage
    whole = litellm.text_completion(model="text-completion-openai/any", prompt=PROMPT, **openai)
    assert whole.choices[0].text


def check_llamaindex():
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.ollama import Ollama
    from llama_index.llms.openai_like import OpenAILike

    said = [ChatMessage(role="user", content="こんにちは")]
    common = dict(model="any", api_base=f"{BASE}/v1", api_key="none", max_tokens=20, additional_kwargs={"seed": 1})
    llm = OpenAILike(**common, is_chat_model=False)
    assert llm.complete(PROMPT).text == "".join(p.delta for p in llm.stream_complete(PROMPT)) != ""
    chat = OpenAILike(**common, is_chat_model=True)
    assert chat.chat(said).message.content == "".join(p.delta for p in chat.stream_chat(said)) != ""
    chat = Ollama(model="any", base_url=BASE, additional_kwargs={"seed": 1, "num_predict": 20})
    assert chat.chat(said).message.content == "".join(p.delta for p in chat.stream_chat(said)) != ""


def check_llm():
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "extra-openai-models.yaml"), "w") as file:
            file.write(f"- model_id: katari\n  model_name: katari\n  api_base: {BASE}/v1\n")
        llm = os.path.join(os.path.dirname(sys.executable), "llm")
        command = [llm, "-m", "katari", "-o", "max_tokens", "20", "-o", "seed", "1", "こんにちは"]
        env = dict(os.environ, LLM_USER_PATH=folder)
        outputs = [
            subprocess.run(command + more, env=env, capture_output=True, text=True, check=True).stdout
            for more in ([], ["--no-stream"])
        ]
        assert outputs[0] == outputs[1] and outputs[0].strip(), outputs


failed = []
chosen = sys.argv[2:]
unknown = [name for name in chosen if f"check_{name}" not in globals()]
if unknown:
    sys.exit(f"there is no check {', '.join(unknown)}")
for name, check in list(globals().items()):
    if name.startswith("check_") and (not chosen or name[6:] in chosen):
        try:
            check()
            print(f"ok      {name[6:]}")
        except Exception as error:
            failed.append(name)
            print(f"FAILED  {name[6:]}: {type(error).__name__}: {error}")
sys.exit(1 if failed else 0)
