"""200 labels as people write them: none of them is a secret, whatever it reminds of."""

# ruff: noqa: RUF001 - people type typographic apostrophes
from __future__ import annotations

from typing import Final

EVERYDAY_LABELS: Final = tuple(
    line.strip()
    for line in """
main
work
test
private
backup
My OpenAI key
OpenAI main account
team-chatbot-production-2026
OpenAI_Production_Key_2
OpenAI_Production_Key_2026_Q4
jane.doe+keys2026@example.org
jane_doe_1984@mail.example.com
https://api.example.com/v1
https://api.openai.com/v1/chat/completions
http://localhost:11434/v1
http://192.168.178.42:8080/api/v2
claude-3-5-sonnet-20241022
claude-opus-4-1-20250805
gpt-4o-mini-2024-07-18
gpt-5-mini
o3-mini-high
chatgpt-4o-latest
gemini-2.5-flash-preview-09-2025
text-embedding-3-large
meta-llama/Llama-3.1-70B-Instruct-Turbo
mistralai/Mixtral-8x7B-Instruct-v0.1
mixtral-8x7b-32768
llama-3.3-70b-versatile
deepseek-ai/DeepSeek-R1-Distill-Qwen-32B
qwen2.5-coder-32b-instruct
accounts/fireworks/models/llama-v3p1-405b
stable-diffusion-xl-1024-v1-0
whisper-large-v3-turbo
guild-123456789012345678
channel 987654321098765432
user:1003005007009011013
123456789012345678
550e8400-e29b-41d4-a716-446655440000
deployment 7d444840-9dc0-11d1-b245-5ffdce74fad2
DE89370400440532013000
arn:aws:iam::123456789012:role/S3Access
arn:aws:s3:::my-community-backups-eu
us-east-1/prod-2/node-3/pod-4a
eu-central-1 production cluster
staging-eu-west-1-blue
k8s-prod-worker-node-17
kubernetes/production/keyhall
projects/my-project-12345/locations/us
my-project-12345@appspot.gserviceaccount
2026-11-29T10:15:00Z
20241022T153000Z
Q4/2026 budget 1500 EUR
valid until 2027-03-31
renewed 29.11.2026
Invoice 2026-000123456789
order #4500012345678
ticket KEY-20261129
JIRA-PROD-12345
PR #1234567
build 20261129.1234
v2.14.3-rc.1+build.20261129
release/2026.11.29-hotfix
0.1.0-alpha.20261129
sha256 checksum bot
RFC3339 parser
ISO8601 importer
UTF-8 test
x86_64-linux-gnu
aarch64-apple-darwin
ubuntu-24.04-lts-server
python3.11-slim-bookworm
ghcr.io/example/keyhall:latest
docker.io/library/postgres:17
redis://cache.example.org:6379
postgres://db.example.org/keyhall
mongodb+srv://cluster0.example.net
s3://my-community-backups/keyhall
gs://example-bucket/exports/2026
ssh deploy@build.example.org
git@github.com:example/keyhall.git
example/keyhall#1234
github.com/example/keyhall-bot
npm publish for @example/keyhall
PyPI upload (keyhall)
Docker Hub read-only
GitHub PAT for CI
GitHub classic token, read:packages
GitLab runner Berlin
Slack bot token for #general
Discord webhook of #announcements
Telegram bot @example_news_bot
Stripe live, restricted
Stripe test mode
PayPal sandbox
Twilio subaccount
SendGrid transactional
Mailgun EU
AWS root, do not use
AWS backup-writer
Azure OpenAI, Sweden Central
azure-openai-gpt4o-swedencentral
AzureOpenAIProductionDeployment2
Cloudflare DNS only
Hetzner Cloud project 2
DigitalOcean Spaces
Grafana read-only
Sentry upload
Notion integration
Linear webhooks
Figma export
Airtable base: members
Spotify client
YouTube Data API v3
Google Maps (browser)
Google Translate v2
DeepL Free
DeepL Pro 500k
ElevenLabs voice "Anna"
Replicate image models
HuggingFace inference
hf_inference
hf_read_only
sk-production
sk-team-chatbot-production
pk-bratislava
gsk_main
xai-grok
ghp_for_ci
key-main
api-key-1
api_key_backup
token-for-tests
secret santa bot
password manager export
my_second_key
THE_BIG_ONE
KEY_NUMBER_SEVEN
OPENAI_API_KEY
DISCORD_BOT_TOKEN
AWS_SECRET_ACCESS_KEY
production_database_password
TeamChatbotProductionKey
MyPersonalOpenAIKeyForTesting
camelCaseLabelWithManyWordsInIt
PascalCaseLabel2026ForTheTeam
snake_case_label_with_many_words_in_it
kebab-case-label-with-many-words-in-it
SCREAMING_SNAKE_CASE_LABEL_OF_2026
dot.separated.label.of.the.team.2026
donaudampfschifffahrtsgesellschaft
Rindfleischetikettierungsgesetz
Llanfairpwllgwyngyllgogerychwyrn
supercalifragilisticexpialidocious
Straßenbahn-Auskunft
Mia’s key
mia & tom
Größe XXL
clé principale
llave de producción
chiave di produzione
ключ для бота
κλειδί παραγωγής
本番環境のキー
운영 키
生产环境密钥
مفتاح الإنتاج
מפתח ייצור
กุญแจหลัก
🔑 main
🔑🔑🔑
❤️ shared with everybody
👩‍💻 Anna’s laptop
🏴󠁧󠁢󠁥󠁮󠁧󠁿 England
1️⃣ first
☎️ hotline +49 30 901820
+1 (555) 010-9999
Raspberry Pi 4B (8 GB)
MacBook Pro 16" M3
iPhone 15 Pro Max 512
Pixel 9a
Home Assistant
home-assistant-living-room-lamp-2
Minecraft server 1.21.4
minecraft-server-1-21-4-paper-build-123
D&D campaign bot
Stable Diffusion WebUI
AUTOMATIC1111
ComfyUI-2026
LangChain playground
n8n workflow 42
monitoring/alertmanager
nightly e2e tests
load-test-2026-11-29-run-7
feature-flag-experiment-b
Kostenstelle 0815
C3PO
R2-D2
007
42
a
""".splitlines()
    if line.strip()
)
