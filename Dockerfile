FROM golang:1.26-alpine AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /stockstream ./cmd/stockstream

FROM alpine:3.22
RUN adduser -D -H -u 10001 stockstream
COPY --from=build /stockstream /usr/local/bin/stockstream
USER stockstream
EXPOSE 8080
ENTRYPOINT ["stockstream"]
CMD ["serve"]
