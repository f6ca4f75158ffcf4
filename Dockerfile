# docker build -t safemt-api . && docker run --rm safemt-api                      (the demonstration, offline)
# docker run --rm -v "$PWD/results:/home/user/results" --env-file .env safemt-api eval --provider openai --max-usd 5
FROM python:3.12-slim
COPY . /src
RUN pip install --no-cache-dir -c /src/constraints.txt '/src[all]' && rm -rf /src \
    && useradd --create-home --uid 1000 user
USER user
WORKDIR /home/user
ENTRYPOINT ["safemt-api"]
CMD ["study", "demo"]
