// Reads one AssumeRole call a line as JSON, and writes what the simulator says about it, one line each.
import { createInterface } from 'node:readline'
import { validateTrustPolicy } from '@cloud-copilot/iam-policy'
import { runSimulation } from '@cloud-copilot/iam-simulate'

async function simulate(call) {
  const invalid = validateTrustPolicy(call.trust)
  if (invalid.length > 0) {
    return { rejected: `trust: ${invalid[0].path}: ${invalid[0].message}` }
  }
  const results = {}
  for (const action of call.actions) {
    const response = await runSimulation(
      {
        request: {
          action,
          principal: call.principal,
          resource: { resource: call.resource, accountId: call.resource.split(':')[4] },
          contextVariables: call.context
        },
        identityPolicies: call.identity.map((policy, index) => ({ name: `policy${index}`, policy })),
        serviceControlPolicies: [],
        resourceControlPolicies: [],
        resourcePolicy: call.trust
      },
      {}
    )
    if (response.resultType === 'error') {
      return { rejected: JSON.stringify(response.errors) }
    }
    results[action] = response.overallResult
  }
  return { results }
}

for await (const line of createInterface({ input: process.stdin })) {
  const call = JSON.parse(line)
  let answer
  try {
    answer = await simulate(call)
  } catch (error) {
    answer = { failed: String(error.stack ?? error) }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
